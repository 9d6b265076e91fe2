"""Callbacks that watch, draw and export; they know a module only through what its steps return."""

from callbacks.divergence import DivergenceTracker
from callbacks.export import StudentExport
from callbacks.predictions import PredictionWriter

__all__ = ["DivergenceTracker", "PredictionWriter", "StudentExport"]
