"""Classification: one of several classes for each sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from distill.checks import check_share
from distill.errors import UserError
from distill.metrics.accuracy import Accuracy
from distill.tasks.parts.class_task import ClassTask


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
