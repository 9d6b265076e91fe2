"""Semantic segmentation: one of several classes for each pixel, point or voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from distill.errors import UserError
from distill.metrics import SegmentationScores
from distill.tasks.parts.class_task import ClassTask
from distill.tasks.parts.resizing import LINEAR, resized


class SemanticSegmentation(ClassTask):
    """One of ``num_classes`` classes for each position: a pixel, a point, or a voxel.

    Predictions are logits ``(N, C, *)``, targets class indices ``(N, *)``, with one or more spatial dims: points
    ``(N, C, P)``, maps ``(N, C, H, W)``, volumes ``(N, C, D, H, W)``. Logits of another size are brought to the
    target's size before they reach a loss or a metric: smaller ones are interpolated (linearly, bilinearly or
    trilinearly), larger ones are averaged down. A batch without a target, as in ``predict``, keeps the network's size.
    The hard loss is cross entropy in nats; the metrics are those of :class:`~distill.metrics.SegmentationScores`;
    ``val/mIoU`` picks the best epoch.

    Args:
        num_classes: C, the number of classes, at least 2.
        ignore_index: Positions with this target count neither in the loss nor in the metrics.
        class_weights: The weight of each class, C values of 0 or more. The loss of a position is multiplied by the
            weight of its class. The mean is still over positions, so weights that average 1 over the positions keep the
            loss's size.
        class_names: The names of the classes in their scores, ``iou_<name>``; their numbers by default.
    """

    monitor = "val/mIoU"
    mode = "max"
    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(num_classes, ignore_index, class_names)
        if class_weights is not None and (
            len(class_weights) != num_classes or not all(0 <= weight < math.inf for weight in class_weights)
        ):
            raise UserError(f"class_weights must be {num_classes} numbers of 0 or more, got {list(class_weights)}")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.metrics()  # raises an error if the names do not fit

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Logits ``(N, C, *)`` in the spatial size of the target ``(N, *)``."""
        size = target.shape[1:]
        if prediction.ndim != target.ndim + 1 or len(size) not in LINEAR:
            return prediction  # check() says what is wrong
        return resized(prediction, size)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits ``(N, C, *)`` with targets ``(N, *)``, in nats, ``(N, *)``; 0 where ignored."""
        weights = None if self.class_weights is None else self.class_weights.to(prediction.dtype)
        return self.cross_entropy(self.at_targets(prediction, target), target, weight=weights)

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.SegmentationScores`."""
        return MetricCollection([SegmentationScores(self.num_classes, self.ignore_index, self.class_names or None)])

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless each position has C logits and every label is a class or ignored."""
        if prediction.ndim < 3 or prediction.shape[1] != self.num_classes:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but SemanticSegmentation("
                f"num_classes={self.num_classes}) takes logits of shape (N, {self.num_classes}, *) with one or more "
                "spatial dims, such as H, W"
            )
        if target.ndim < 2 or len(target) != len(prediction) or target.dtype != torch.int64:
            raise UserError(
                f"{data}: target must hold one class index per position, int64 of shape ({len(prediction)}, *), got "
                f"{target.dtype} of shape {tuple(target.shape)}"
            )
        if prediction.shape[2:] != target.shape[1:]:
            raise UserError(
                f"{model} returns logits of the spatial size {tuple(prediction.shape[2:])}, and the target has "
                f"{tuple(target.shape[1:])}: only sizes of the same 1 to 3 dims are resized"
            )
        self.check_labels(target, data=data)
