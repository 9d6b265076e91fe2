"""The share of correct predictions, which is NaN where a prediction is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from distill.losses.parts.soft_labels import class_indices


def count_undefined(logits: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    """The number of counted positions without a class of the highest logit: a logit is NaN, or all are -inf.

    ``argmax`` names a class there, too. It would be scored like a real prediction.

    Args:
        logits: ``(N, C, *)``.
        target: ``(N, *)``.
        ignore_index: Positions with this target do not count.
    """
    return (~(logits.amax(1) > -torch.inf) & (target != ignore_index)).sum()


class Accuracy(MulticlassAccuracy):
    """The share of the samples whose class is among the K highest logits; NaN if the logits of a sample are undefined.

    Args:
        num_classes: C.
        top_k: K.
        ignore_index: Samples with this target do not count.
        **kwargs: As in :class:`torchmetrics.Metric`.
    """

    undefined: Tensor

    def __init__(self, num_classes: int, top_k: int = 1, *, ignore_index: int | None = None, **kwargs: Any) -> None:
        super().__init__(num_classes, top_k, average="micro", ignore_index=ignore_index, **kwargs)
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds logits ``(N, C)``, and class indices ``(N,)`` or distributions ``(N, C)``."""
        target = class_indices(target, -1 if self.ignore_index is None else self.ignore_index)
        super().update(preds, target)
        self.undefined = self.undefined + count_undefined(preds, target, self.ignore_index)

    def compute(self) -> Tensor:
        """The share in [0, 1], or NaN."""
        return torch.where(self.undefined > 0, torch.nan, super().compute())
