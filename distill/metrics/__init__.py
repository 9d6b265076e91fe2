"""Divergences of student and teacher, and scores: functions, and torchmetrics classes."""

from distill.metrics.cmd import CentralMomentDiscrepancy, central_moment_discrepancy
from distill.metrics.depth import DepthScores
from distill.metrics.dice import RegionDice
from distill.metrics.jsd import NontargetJSD, TargetJSD, nontarget_jsd, target_jsd
from distill.metrics.segmentation import SegmentationScores

__all__ = [
    "CentralMomentDiscrepancy",
    "DepthScores",
    "NontargetJSD",
    "RegionDice",
    "SegmentationScores",
    "TargetJSD",
    "central_moment_discrepancy",
    "nontarget_jsd",
    "target_jsd",
]
