"""Callbacks that measure, draw and export. They read what a module's steps return.

Only :class:`ControllerTracker` reads from a part of a module, through a hook.
"""

from callbacks.confusion_matrix import ConfusionMatrix
from callbacks.controller import ControllerTracker
from callbacks.depth_gallery import DepthGallery
from callbacks.divergence import DivergenceTracker
from callbacks.export import StudentExport
from callbacks.prediction_gallery import PredictionGallery
from callbacks.predictions import PredictionWriter
from callbacks.responses import ResponseWriter
from callbacks.salience import SalienceMap
from callbacks.similarity import TeacherSimilarity
from callbacks.structure import FeatureStructure

__all__ = [
    "ConfusionMatrix",
    "ControllerTracker",
    "DepthGallery",
    "DivergenceTracker",
    "FeatureStructure",
    "PredictionGallery",
    "PredictionWriter",
    "ResponseWriter",
    "SalienceMap",
    "StudentExport",
    "TeacherSimilarity",
]
