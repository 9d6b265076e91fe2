"""Weights of samples or pixels in a logit loss, computed from the predictions of teacher and student."""

from distill.weighting.base import SampleWeighting
from distill.weighting.perceptual import PerceptualSolutionSpaceMask, Predictor, Reading
from distill.weighting.sample_mask import MaskMode, NontargetSampleMask, left_out

__all__ = [
    "MaskMode",
    "NontargetSampleMask",
    "PerceptualSolutionSpaceMask",
    "Predictor",
    "Reading",
    "SampleWeighting",
    "left_out",
]
