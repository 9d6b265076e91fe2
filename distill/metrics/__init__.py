"""Divergences of student and teacher, and scores: functions, and torchmetrics classes."""

from distill.metrics.classification import ClassificationScores
from distill.metrics.cmd import CentralMomentDiscrepancy, central_moment_discrepancy
from distill.metrics.depth import DepthScores
from distill.metrics.dice import RegionDice
from distill.metrics.jsd import NontargetJSD, TargetJSD, nontarget_jsd, target_jsd
from distill.metrics.multi_label import MultiLabelScores
from distill.metrics.regression import RegressionScores
from distill.metrics.segmentation import SegmentationScores

__all__ = [
    "CentralMomentDiscrepancy",
    "ClassificationScores",
    "DepthScores",
    "MultiLabelScores",
    "NontargetJSD",
    "RegionDice",
    "RegressionScores",
    "SegmentationScores",
    "TargetJSD",
    "central_moment_discrepancy",
    "nontarget_jsd",
    "target_jsd",
]
