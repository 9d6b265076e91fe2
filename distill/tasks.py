"""Tasks: the hard loss on the labels, the metrics, and the metric that picks the best epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from distill.checks import check_at_least, check_share
from distill.errors import UserError
from distill.losses import silog_loss
from distill.losses.parts.logits import where_counted
from distill.metrics import DepthScores, SegmentationScores
from distill.metrics.accuracy import Accuracy
from distill.metrics.depth import Average, Crop


class Task(nn.Module, ABC):
    """A kind of prediction, with its hard loss and its metrics.

    ``monitor`` is the logged metric that ranks checkpoints; ``mode`` is ``max`` if a higher value is better, else
    ``min``. Positions with the target ``ignore_index`` count neither in the loss nor in the metrics.
    """

    monitor: str
    mode: str
    ignore_index: int

    def check_network(self, network: nn.Module, *, model: str) -> None:
        """Raises a one-sentence :class:`ValueError` if a network to train was built for other predictions."""

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The prediction resized to one value for each position of the target."""
        return prediction

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The hard loss of every sample or pixel, unreduced, ``(N, *spatial)``."""

    @abstractmethod
    def counts(self, target: Tensor) -> Tensor:
        """The weight of each position in a mean over positions, ``(N, *spatial)``; 0 for ignored positions."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """New metrics for a stage; they take a prediction and a target."""

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a one-sentence :class:`ValueError` if a label is not one of the task's classes.

        Args:
            target: The target of a batch.
            data: The name of the data, for the message.
            index: The samples' positions in their data set, ``(N,)``, if they are known.
        """

    @abstractmethod
    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a one-sentence :class:`ValueError` if a prediction or a target does not fit this task.

        Args:
            prediction: The prediction for a batch, in the size of the target.
            target: The target of the batch.
            model: The name of the network, for the message.
            data: The name of the data, for the message.
        """


class ClassTask(Task):
    """Base of the tasks whose targets are class indices.

    Args:
        num_classes: C, the number of classes, at least 2.
        ignore_index: Targets of this value count neither in the loss nor in the metrics.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        check_at_least(2, num_classes=num_classes)
        if 0 <= ignore_index < num_classes:
            raise UserError(f"ignore_index {ignore_index} is one of the {num_classes} classes: use another, as -100")
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def counts(self, target: Tensor) -> Tensor:
        """1 for every position with a label, 0 for the ignored ones, ``(N, *spatial)``."""
        return (target != self.ignore_index).float()

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a ValueError unless every label is one of the classes or ignored."""
        if target.numel() == 0:
            return
        lowest, highest = target.aminmax()
        if lowest >= 0 and highest < self.num_classes:
            return
        outside = ((target < 0) | (target >= self.num_classes)) & (target != self.ignore_index)
        if outside.any():
            first = outside.nonzero()[0, 0]
            sample = "" if index is None else f"; the sample has the index {int(index[first])}"
            raise UserError(
                f"{data}: target holds label {int(target[outside][0])}, but the task has the classes 0 to "
                f"{self.num_classes - 1} (and {self.ignore_index} for ignored positions){sample}"
            )

    def cross_entropy(self, prediction: Tensor, target: Tensor, **settings: Any) -> Tensor:
        """Cross entropy of logits ``(N, C, *)`` with targets ``(N, *)`` in nats, ``(N, *)``; 0 where ignored."""
        counted = where_counted(prediction, target != self.ignore_index)
        return F.cross_entropy(counted, target, ignore_index=self.ignore_index, reduction="none", **settings)


class Classification(ClassTask):
    """One of ``num_classes`` classes for each sample.

    Predictions are logits ``(N, C)``, targets class indices ``(N,)``. The hard loss is cross entropy in nats; the
    metrics are ``accuracy`` (top-1) and, with more than 5 classes, ``top5``; ``val/accuracy`` picks the best epoch.

    Args:
        num_classes: C, the number of classes, at least 2.
        label_smoothing: The share of the target distribution that is spread evenly over all classes, in [0, 1]
            (Szegedy et al., CVPR 2016).
        ignore_index: Targets of this value count neither in the loss nor in the metrics.
    """

    monitor = "val/accuracy"
    mode = "max"

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, ignore_index: int = 255) -> None:
        super().__init__(num_classes, ignore_index)
        check_share(label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits ``(N, C)`` with targets ``(N,)``, in nats, ``(N,)``; 0 where ignored."""
        return self.cross_entropy(prediction, target, label_smoothing=self.label_smoothing)

    def metrics(self) -> MetricCollection:
        """``accuracy`` and, with more than 5 classes, ``top5``, over the samples with a label."""
        top_k = {"accuracy": 1, "top5": 5} if self.num_classes > 5 else {"accuracy": 1}
        return MetricCollection(
            {name: Accuracy(self.num_classes, k, ignore_index=self.ignore_index) for name, k in top_k.items()}
        )

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless each sample has ``num_classes`` logits and every label is a class or ignored."""
        if prediction.ndim != 2 or prediction.shape[1] != self.num_classes:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but Classification(num_classes="
                f"{self.num_classes}) takes logits of shape (N, {self.num_classes})"
            )
        if target.shape != prediction.shape[:1] or target.dtype != torch.int64:
            raise UserError(
                f"{data}: target must hold one class index per sample, int64 of shape ({len(prediction)},), got "
                f"{target.dtype} of shape {tuple(target.shape)}"
            )
        self.check_labels(target, data=data)


class SemanticSegmentation(ClassTask):
    """One of ``num_classes`` classes for each pixel.

    Predictions are logits ``(N, C, H, W)``, targets class indices ``(N, H, W)``. Logits of a smaller map are resized
    bilinearly to the target's size before they reach a loss or a metric. A batch without a target, as in ``predict``,
    keeps the network's size. The hard loss is cross entropy in nats; the metrics are those of
    :class:`~distill.metrics.SegmentationScores`; ``val/mIoU`` picks the best epoch.

    Args:
        num_classes: C, the number of classes, at least 2.
        ignore_index: Pixels with this target count neither in the loss nor in the metrics.
        class_weights: The weight of each class, C values of 0 or more. The loss of a pixel is multiplied by the weight
            of its class. The mean is still over pixels, so weights that average 1 over the pixels keep the loss's size.
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
        super().__init__(num_classes, ignore_index)
        if class_weights is not None and (
            len(class_weights) != num_classes or not all(0 <= weight < math.inf for weight in class_weights)
        ):
            raise UserError(f"class_weights must be {num_classes} numbers of 0 or more, got {list(class_weights)}")
        self.class_names = class_names
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.metrics()  # raises an error if the names do not fit

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Logits ``(N, C, h, w)`` as ``(N, C, H, W)``, enlarged bilinearly if they are smaller than the target."""
        size = target.shape[1:]
        if prediction.ndim != 4 or len(size) != 2 or not _is_smaller(prediction.shape[2:], size):
            return prediction
        return F.interpolate(prediction, size, mode="bilinear", align_corners=False)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits ``(N, C, H, W)`` with targets ``(N, H, W)``, in nats, ``(N, H, W)``; 0 if ignored."""
        weights = None if self.class_weights is None else self.class_weights.to(prediction.dtype)
        return self.cross_entropy(self.at_targets(prediction, target), target, weight=weights)

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.SegmentationScores`."""
        return MetricCollection([SegmentationScores(self.num_classes, self.ignore_index, self.class_names)])

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless each pixel has ``num_classes`` logits and every label is a class or ignored."""
        if prediction.ndim != 4 or prediction.shape[1] != self.num_classes:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but SemanticSegmentation("
                f"num_classes={self.num_classes}) takes logits of shape (N, {self.num_classes}, H, W)"
            )
        if target.ndim != 3 or len(target) != len(prediction) or target.dtype != torch.int64:
            raise UserError(
                f"{data}: target must hold one class index per pixel, int64 of shape ({len(prediction)}, H, W), got "
                f"{target.dtype} of shape {tuple(target.shape)}"
            )
        if prediction.shape[2:] != target.shape[1:]:
            raise UserError(
                f"{model} returns logits of {tuple(prediction.shape[2:])} pixels, more than the target's "
                f"{tuple(target.shape[1:])}: only smaller maps are resized"
            )
        self.check_labels(target, data=data)


class DepthEstimation(Task):
    """The distance in metres of each pixel along the optical axis.

    Predictions and targets are depth ``(N, 1, H, W)``; a target of 0 means no ground truth. Smaller predictions are
    resized bilinearly to the target's size. The hard loss is :func:`~distill.losses.silog_loss`, one value per image;
    the metrics are those of :class:`~distill.metrics.DepthScores`; ``val/abs_rel`` picks the best epoch.

    Args:
        min_depth: The lowest depth in metres. Targets at or below it do not count, and scored predictions are clamped
            to it.
        max_depth: The highest depth in metres; 80 for KITTI, 10 for NYU Depth V2. Targets at or above it do not count,
            and scored predictions are clamped to it.
        crop: The part of the image that is scored: ``"garg"`` or ``"eigen"`` on KITTI, ``"nyu"`` on NYU Depth V2.
        ignore_top_rows: The number of top rows that all losses ignore; the scores count them. TIE-KD ignores 110 of 352
            rows, because lidar points are rare there and teachers guess.
        average: Whether scores are means over images, as in the papers, or over all pixels.

    Raises:
        ValueError: An argument is out of its range.
    """

    monitor = "val/abs_rel"
    mode = "min"
    ignore_index = 0

    def __init__(
        self,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        crop: Crop | None = None,
        ignore_top_rows: int = 0,
        average: Average = "image",
    ) -> None:
        super().__init__()
        check_at_least(0, ignore_top_rows=ignore_top_rows)
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.crop = crop
        self.ignore_top_rows = ignore_top_rows
        self.average = average
        self.metrics()  # raises an error if the range, the crop or the average is not valid

    def check_network(self, network: nn.Module, *, model: str) -> None:
        """Raises a ValueError if the network, or a network inside it, was built for another range of depths."""
        for part in network.modules():
            for name in ("min_depth", "max_depth"):
                expected, found = getattr(self, name), getattr(part, name, None)
                if found is not None and found != expected:
                    raise UserError(f"the {model} has {name}={found}, but the task has {name}={expected}")

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Depth ``(N, 1, h, w)`` as ``(N, 1, H, W)``, enlarged bilinearly if it is smaller than the target."""
        if prediction.ndim != 4 or target.ndim != 4 or not _is_smaller(prediction.shape[2:], target.shape[2:]):
            return prediction
        return F.interpolate(prediction, target.shape[2:], mode="bilinear", align_corners=False)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The scale-invariant error of depths ``(N, 1, H, W)``, ``(N,)``; 0 for an image without ground truth."""
        rows = slice(self.ignore_top_rows, None)
        counted = self.counts(target)[:, None] > 0
        return silog_loss(
            self.at_targets(prediction, target)[:, :, rows],
            target.where(counted, 0)[:, :, rows].to(prediction.dtype),
            reduction="none",
        )

    def counts(self, target: Tensor) -> Tensor:
        """1 for every pixel below the ignored rows with a depth in the range, 0 for the others, ``(N, H, W)``."""
        counted = (target > self.min_depth) & (target < self.max_depth)
        counted[:, :, : self.ignore_top_rows] = False
        return counted[:, 0].float()

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.DepthScores`."""
        return MetricCollection([DepthScores(self.min_depth, self.max_depth, self.crop, self.average)])

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless both hold one depth per pixel and the target's depths are 0 or more."""
        if prediction.ndim != 4 or prediction.shape[1] != 1:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but DepthEstimation() takes depth "
                "of shape (N, 1, H, W)"
            )
        if not prediction.isfinite().all():
            raise UserError(f"{model} returns depth that is NaN or infinite")
        if target.ndim != 4 or target.shape[:2] != (len(prediction), 1) or not target.is_floating_point():
            raise UserError(
                f"{data}: target must hold one depth in metres per pixel, floats of shape ({len(prediction)}, 1, H, W)"
                f", got {target.dtype} of shape {tuple(target.shape)}"
            )
        if prediction.shape[2:] != target.shape[2:]:
            raise UserError(
                f"{model} returns depth of {tuple(prediction.shape[2:])} pixels, more than the target's "
                f"{tuple(target.shape[2:])}: only smaller maps are resized"
            )
        if not (target >= 0).all():
            raise UserError(f"{data}: target must hold metres, and 0 for no ground truth, got negative or NaN values")
        if self.ignore_top_rows >= target.shape[2]:
            raise UserError(f"ignore_top_rows={self.ignore_top_rows} leaves none of the {target.shape[2]} rows")


def _is_smaller(size: Sequence[int], target: Sequence[int]) -> bool:
    return size != target and all(dim <= of_target for dim, of_target in zip(size, target, strict=True))
