"""Callbacks that watch, draw and export; they know a module by what its steps return.

Only :class:`ControllerTracker` listens to a part of one.
"""

from callbacks.controller import ControllerTracker
from callbacks.divergence import DivergenceTracker
from callbacks.export import StudentExport
from callbacks.gallery import PredictionGallery
from callbacks.predictions import PredictionWriter

__all__ = ["ControllerTracker", "DivergenceTracker", "PredictionGallery", "PredictionWriter", "StudentExport"]
