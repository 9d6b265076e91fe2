"""How much each sample or pixel counts in a logit loss: weights made from the two models' predictions."""

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
