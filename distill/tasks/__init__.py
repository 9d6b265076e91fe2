"""Tasks: the hard loss on the labels, the metrics, and the metric that picks the best epoch; one file each."""

from distill.tasks.classification import Classification
from distill.tasks.depth_estimation import DepthEstimation
from distill.tasks.multi_label_classification import MultiLabelClassification
from distill.tasks.region_segmentation import RegionSegmentation
from distill.tasks.regression import Regression
from distill.tasks.semantic_segmentation import SemanticSegmentation
from distill.tasks.task import Task

__all__ = [
    "Classification",
    "DepthEstimation",
    "MultiLabelClassification",
    "RegionSegmentation",
    "Regression",
    "SemanticSegmentation",
    "Task",
]
