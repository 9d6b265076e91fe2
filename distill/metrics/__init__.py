"""How far student and teacher diverge: functions, and torchmetrics classes of the same names."""

from distill.metrics.cmd import CentralMomentDiscrepancy, central_moment_discrepancy
from distill.metrics.jsd import NontargetJSD, TargetJSD, nontarget_jsd, target_jsd
from distill.metrics.segmentation import SegmentationScores

__all__ = [
    "CentralMomentDiscrepancy",
    "NontargetJSD",
    "SegmentationScores",
    "TargetJSD",
    "central_moment_discrepancy",
    "nontarget_jsd",
    "target_jsd",
]
