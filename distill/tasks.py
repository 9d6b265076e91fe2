"""What is learned from the labels: the hard loss, the metrics, and the metric that picks the best epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from distill.errors import UserError
from distill.losses import silog_loss
from distill.losses.parts.logits import where_counted
from distill.metrics import DepthScores, SegmentationScores
from distill.metrics.depth import Average, Crop


class Task(nn.Module, ABC):
    """A kind of prediction: what it costs to be wrong, and how well it is done.

    ``monitor`` names the logged metric by which checkpoints are ranked and ``mode`` whether more or less of it is
    better. Targets of the value ``ignore_index`` count nowhere.
    """

    monitor: str
    mode: str
    ignore_index: int

    def check_network(self, network: nn.Module, *, model: str) -> None:
        """Raises a :class:`ValueError` of one sentence where a network to train is made for something else."""

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The prediction with one value for each position of the target; what networks return is brought to this."""
        return prediction

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The hard loss of every sample or pixel, unreduced, ``(N, *spatial)``."""

    @abstractmethod
    def counts(self, target: Tensor) -> Tensor:
        """How much each position counts in a mean over positions, ``(N, *spatial)``, 0 where it is ignored."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics of a stage; they take a prediction and a target."""

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a :class:`ValueError` of one sentence where a label is none of the task's classes.

        Args:
            target: Of a batch.
            data: What the target is of, for the error.
            index: The samples' positions in their data set, ``(N,)``, where they are known.
        """

    @abstractmethod
    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a :class:`ValueError` of one sentence where a prediction or a target cannot belong to this task."""


class Classification(Task):
    """One of ``num_classes`` classes for each sample.

    Predictions are logits ``(N, C)``, targets class indices ``(N,)``. The hard loss is cross entropy in nats; the
    metrics are ``accuracy`` (top-1) and, with more than 5 classes, ``top5``; ``val/accuracy`` picks the best epoch.

    Args:
        num_classes: C, the number of classes, at least 2.
        label_smoothing: The share of the target distribution that is spread evenly over all classes, 0 to 1
            (Szegedy et al., CVPR 2016).
        ignore_index: Targets of this value count neither in the loss nor in the metrics.
    """

    monitor = "val/accuracy"
    mode = "max"

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, ignore_index: int = 255) -> None:
        super().__init__()
        _check_classes(num_classes, ignore_index)
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits ``(N, C)`` with targets ``(N,)``, in nats, ``(N,)``; 0 where ignored."""
        return F.cross_entropy(
            where_counted(prediction, target != self.ignore_index),
            target,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def counts(self, target: Tensor) -> Tensor:
        """1 for every sample with a label, 0 for the ignored, ``(N,)``."""
        return (target != self.ignore_index).float()

    def metrics(self) -> MetricCollection:
        """``accuracy`` and, with more than 5 classes, ``top5``: shares of the samples with a label."""
        top_k = {"accuracy": 1, "top5": 5} if self.num_classes > 5 else {"accuracy": 1}
        return MetricCollection(
            {
                name: MulticlassAccuracy(self.num_classes, k, average="micro", ignore_index=self.ignore_index)
                for name, k in top_k.items()
            }
        )

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless there are ``num_classes`` logits a sample and every label is one of them."""
        if prediction.ndim != 2 or prediction.shape[1] != self.num_classes:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but Classification(num_classes="
                f"{self.num_classes}) takes logits of shape (N, {self.num_classes})"
            )
        if target.shape != prediction.shape[:1] or target.dtype != torch.int64:
            raise UserError(
                f"{data}: target must hold one class index a sample, int64 of shape ({len(prediction)},), got "
                f"{target.dtype} of shape {tuple(target.shape)}"
            )
        self.check_labels(target, data=data)

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a ValueError unless every label is one of the classes or ignored."""
        _check_labels(target, self.num_classes, self.ignore_index, data, index)


class SemanticSegmentation(Task):
    """One of ``num_classes`` classes for each pixel.

    Predictions are logits ``(N, C, H, W)``, targets class indices ``(N, H, W)``. Logits of a smaller map are resized
    bilinearly to the target's size, before any loss or metric sees them; batches without a target, in ``predict``, keep
    the network's size. The hard loss is cross entropy in nats; the metrics are those of
    :class:`~distill.metrics.SegmentationScores`; ``val/mIoU`` picks the best epoch.

    Args:
        num_classes: C, the number of classes, at least 2.
        ignore_index: Pixels with this target count neither in the loss nor in the metrics.
        class_weights: Multiplies the loss of each pixel by the weight of its class, C values of 0 or more; the mean
            is still over pixels, so weights that average 1 over the pixels keep the loss's size.
        class_names: What the scores of single classes are called, ``iou_<name>``; their numbers by default.
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
        super().__init__()
        _check_classes(num_classes, ignore_index)
        if class_weights is not None and (
            len(class_weights) != num_classes or not all(0 <= weight < math.inf for weight in class_weights)
        ):
            raise UserError(f"class_weights must be {num_classes} numbers of 0 or more, got {list(class_weights)}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = class_names
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.metrics()  # refuses names that do not fit

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Logits ``(N, C, h, w)`` as ``(N, C, H, W)``, enlarged bilinearly where they are smaller than the target."""
        size = target.shape[1:]
        if prediction.ndim != 4 or len(size) != 2 or not _is_smaller(prediction.shape[2:], size):
            return prediction
        return F.interpolate(prediction, size, mode="bilinear", align_corners=False)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits ``(N, C, H, W)`` with targets ``(N, H, W)``, in nats, ``(N, H, W)``; 0 if ignored."""
        weights = None if self.class_weights is None else self.class_weights.to(prediction.dtype)
        return F.cross_entropy(
            where_counted(self.at_targets(prediction, target), target != self.ignore_index),
            target,
            weights,
            ignore_index=self.ignore_index,
            reduction="none",
        )

    def counts(self, target: Tensor) -> Tensor:
        """1 for every pixel with a label, 0 for the ignored, ``(N, H, W)``."""
        return (target != self.ignore_index).float()

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.SegmentationScores`."""
        return MetricCollection([SegmentationScores(self.num_classes, self.ignore_index, self.class_names)])

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless there are ``num_classes`` logits a pixel and every label is one of them."""
        if prediction.ndim != 4 or prediction.shape[1] != self.num_classes:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but SemanticSegmentation("
                f"num_classes={self.num_classes}) takes logits of shape (N, {self.num_classes}, H, W)"
            )
        if target.ndim != 3 or len(target) != len(prediction) or target.dtype != torch.int64:
            raise UserError(
                f"{data}: target must hold one class index a pixel, int64 of shape ({len(prediction)}, H, W), got "
                f"{target.dtype} of shape {tuple(target.shape)}"
            )
        if prediction.shape[2:] != target.shape[1:]:
            raise UserError(
                f"{model} returns logits of {tuple(prediction.shape[2:])} pixels, more than the target's "
                f"{tuple(target.shape[1:])}: only smaller ones are resized"
            )
        self.check_labels(target, data=data)

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a ValueError unless every label is one of the classes or ignored."""
        _check_labels(target, self.num_classes, self.ignore_index, data, index)


class DepthEstimation(Task):
    """The distance in metres of each pixel along the optical axis.

    Predictions are depth ``(N, 1, H, W)``, targets as well, with 0 where there is no ground truth. Smaller predictions
    are resized bilinearly to the target's size. The hard loss is :func:`~distill.losses.silog_loss`, one value an
    image; the metrics are those of :class:`~distill.metrics.DepthScores`; ``val/abs_rel`` picks the best epoch.

    Args:
        min_depth: The lowest depth in metres; targets that are not above it count nowhere, and scored predictions are
            clamped to it.
        max_depth: The highest, alike; 80 for KITTI, 10 for NYU Depth V2.
        crop: The part of the image that is scored: ``"garg"`` or ``"eigen"`` on KITTI, ``"nyu"`` on NYU Depth V2.
        ignore_top_rows: So many rows are left out of all losses, but not of the scores. TIE-KD leaves out 110 of 352,
            where lidar points are rare and teachers guess.
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
        if ignore_top_rows < 0:
            raise UserError(f"ignore_top_rows must be 0 or more, got {ignore_top_rows}")
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.crop = crop
        self.ignore_top_rows = ignore_top_rows
        self.average = average
        self.metrics()  # refuses a range, a crop or an average that there is not

    def check_network(self, network: nn.Module, *, model: str) -> None:
        """Raises a ValueError where the network, or one that it wraps, is made for another range of depths."""
        for part in network.modules():
            for name in ("min_depth", "max_depth"):
                expected, found = getattr(self, name), getattr(part, name, None)
                if found is not None and found != expected:
                    raise UserError(f"the {model} has {name}={found}, but the task has {name}={expected}")

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Depth ``(N, 1, h, w)`` as ``(N, 1, H, W)``, enlarged bilinearly where it is smaller than the target."""
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
        """1 for every pixel with a depth in the range and below the ignored rows, else 0, ``(N, H, W)``."""
        counted = (target > self.min_depth) & (target < self.max_depth)
        counted[:, :, : self.ignore_top_rows] = False
        return counted[:, 0].float()

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.DepthScores`."""
        return MetricCollection([DepthScores(self.min_depth, self.max_depth, self.crop, self.average)])

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless both hold one depth a pixel, and that of the target is 0 or more."""
        if prediction.ndim != 4 or prediction.shape[1] != 1:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but DepthEstimation() takes depth "
                "of shape (N, 1, H, W)"
            )
        if not prediction.isfinite().all():
            raise UserError(f"{model} returns depth that is NaN or infinite")
        if target.ndim != 4 or target.shape[:2] != (len(prediction), 1) or not target.is_floating_point():
            raise UserError(
                f"{data}: target must hold one depth in metres a pixel, floats of shape ({len(prediction)}, 1, H, W), "
                f"got {target.dtype} of shape {tuple(target.shape)}"
            )
        if prediction.shape[2:] != target.shape[2:]:
            raise UserError(
                f"{model} returns depth of {tuple(prediction.shape[2:])} pixels, more than the target's "
                f"{tuple(target.shape[2:])}: only smaller ones are resized"
            )
        if not (target >= 0).all():
            raise UserError(f"{data}: target must hold metres, and 0 for no ground truth, got negative or NaN values")
        if self.ignore_top_rows >= target.shape[2]:
            raise UserError(f"ignore_top_rows={self.ignore_top_rows} leaves none of the {target.shape[2]} rows")


def _is_smaller(size: Sequence[int], than: Sequence[int]) -> bool:
    return size != than and all(ours <= theirs for ours, theirs in zip(size, than, strict=True))


def _check_classes(num_classes: int, ignore_index: int) -> None:
    if num_classes < 2:
        raise UserError(f"num_classes must be at least 2, got {num_classes}")
    if 0 <= ignore_index < num_classes:
        raise UserError(f"ignore_index {ignore_index} is one of the {num_classes} classes: use another, as -100")


def _check_labels(target: Tensor, num_classes: int, ignore_index: int, data: str, index: Tensor | None) -> None:
    if target.numel() == 0:
        return
    lowest, highest = target.aminmax()
    if lowest >= 0 and highest < num_classes:
        return
    outside = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
    if outside.any():
        sample = "" if index is None else f"; it is of the sample with the index {int(index[outside.nonzero()[0, 0]])}"
        raise UserError(
            f"{data}: target holds label {int(target[outside][0])}, but the task has the classes 0 to "
            f"{num_classes - 1} (and {ignore_index} for what to ignore){sample}"
        )
