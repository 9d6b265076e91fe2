"""Callbacks that watch, draw and export; they know a module only through what its steps return."""

from callbacks.controller import ControllerTracker
from callbacks.divergence import DivergenceTracker
from callbacks.export import StudentExport
from callbacks.gallery import PredictionGallery
from callbacks.predictions import PredictionWriter

__all__ = ["ControllerTracker", "DivergenceTracker", "PredictionGallery", "PredictionWriter", "StudentExport"]
