"""The base of the tasks whose targets are class indices."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_at_least
from distill.errors import UserError
from distill.losses.parts.logits import where_counted
from distill.losses.parts.precision import at_least_float32
from distill.tasks.task import Task


class ClassTask(Task, ABC):
    """Base of the tasks with one of C classes at each position; targets are class indices.

    Args:
        num_classes: C, the number of classes, at least 2.
        ignore_index: Targets of this value count neither in the loss nor in the metrics.
        class_names: The names of the classes, by index.
    """

    def __init__(self, num_classes: int, ignore_index: int, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        check_at_least(2, num_classes=num_classes)
        if 0 <= ignore_index < num_classes:
            raise UserError(f"ignore_index {ignore_index} is one of the {num_classes} classes: use another, as -100")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = tuple(class_names or ())

    def probabilities(self, prediction: Tensor) -> Tensor:
        """The softmax of logits ``(N, C, *)``, in the same shape, in at least float32."""
        return at_least_float32(prediction).softmax(1)

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
