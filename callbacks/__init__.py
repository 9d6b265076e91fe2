"""Callbacks that watch, draw and export; they know a module only through what its steps return."""

from callbacks.predictions import PredictionWriter

__all__ = ["PredictionWriter"]
