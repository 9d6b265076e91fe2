"""Cross-modal knowledge distillation: the teacher sees modalities that the deployed student lacks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.base import Batch, DistillationModule, NetworkOutput, Supervised
    from distill.checkpoint import Weights
    from distill.errors import UserError
    from distill.feature_mask.feature_mask import FeatureMask
    from distill.tasks import (
        Classification,
        DepthEstimation,
        MultiLabelClassification,
        Regression,
        SemanticSegmentation,
        Task,
    )

__all__ = [
    "Batch",
    "Classification",
    "DepthEstimation",
    "DistillationModule",
    "FeatureMask",
    "MultiLabelClassification",
    "NetworkOutput",
    "Regression",
    "SemanticSegmentation",
    "Supervised",
    "Task",
    "UserError",
    "Weights",
]
TASK_CLASSES = (
    "Classification",
    "DepthEstimation",
    "MultiLabelClassification",
    "Regression",
    "SemanticSegmentation",
    "Task",
)


def __getattr__(name: str) -> Any:
    """Imports a class on first use, because ``distill.losses`` and ``distill.metrics`` need torch but no Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = {
        "FeatureMask": "feature_mask",
        "UserError": "errors",
        "Weights": "checkpoint",
        **dict.fromkeys(TASK_CLASSES, "tasks"),
    }
    return getattr(import_module(f"distill.{modules.get(name, 'base')}"), name)
