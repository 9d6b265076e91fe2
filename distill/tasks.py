"""What is learned from the labels: the hard loss, the metrics, and the metric that picks the best epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy


class Task(nn.Module, ABC):
    """A kind of prediction: what it costs to be wrong, and how well it is done.

    ``monitor`` names the logged metric by which checkpoints are ranked and ``mode`` whether more or less of it is
    better. Targets of the value ``ignore_index`` count nowhere.
    """

    monitor: str
    mode: str
    ignore_index: int

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The hard loss of every sample or pixel, unreduced, ``(N, *spatial)``."""

    @abstractmethod
    def counts(self, target: Tensor) -> Tensor:
        """How much each position counts in a mean over positions, ``(N, *spatial)``, 0 where it is ignored."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics of a stage; they take a prediction and a target."""

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
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index {ignore_index} is one of the {num_classes} classes: use another, as -100")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits ``(N, C)`` with targets ``(N,)``, in nats, ``(N,)``; 0 where ignored."""
        return F.cross_entropy(
            prediction, target, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing, reduction="none"
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
            raise ValueError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but Classification(num_classes="
                f"{self.num_classes}) takes logits of shape (N, {self.num_classes})"
            )
        if target.shape != prediction.shape[:1] or target.dtype != torch.int64:
            raise ValueError(
                f"{data}: target must hold one class index a sample, int64 of shape ({len(prediction)},), got "
                f"{target.dtype} of shape {tuple(target.shape)}"
            )
        labels = torch.unique(target[target != self.ignore_index])
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(outside):
            raise ValueError(
                f"{data}: target holds label {int(outside[0])}, but the task has the classes 0 to "
                f"{self.num_classes - 1} (and {self.ignore_index} for samples to ignore)"
            )
