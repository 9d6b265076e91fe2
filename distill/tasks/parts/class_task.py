"""The base of the tasks with one class at each position."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_at_least
from distill.errors import UserError
from distill.losses.parts.logits import where_counted
from distill.losses.parts.precision import at_least_float32
from distill.metrics.parts.names import check_names
from distill.tasks.task import Task

FEW_CLASSES = 20
"""Up to this many classes with names have scores of their own, unless the task says otherwise."""


class ClassTask(Task, ABC):
    """Base of the tasks with one of C classes at each position; targets are class indices.

    Args:
        num_classes: C, the number of classes, at least 2.
        ignore_index: Targets of this value count neither in the loss nor in the metrics.
        class_weights: The weight of each class in the loss, C values of 0 or more.
        class_names: The names of the classes, by index.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        class_weights: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        check_at_least(2, num_classes=num_classes)
        if 0 <= ignore_index < num_classes:
            raise UserError(f"ignore_index {ignore_index} is one of the {num_classes} classes: use another, as -100")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = check_names(class_names, num_classes) if class_names else ()
        self.register_buffer("class_weights", weights_of("class_weights", class_weights, num_classes), persistent=False)

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
            raise UserError(
                f"{data}: target holds label {int(target[outside][0])}, but the task has the classes 0 to "
                f"{self.num_classes - 1} (and {self.ignore_index} for ignored positions){sample_of(outside, index)}"
            )

    def cross_entropy(self, prediction: Tensor, target: Tensor, **settings: Any) -> Tensor:
        """Cross entropy of logits ``(N, C, *)`` with targets ``(N, *)`` in nats, ``(N, *)``; 0 where ignored.

        The loss of a position is multiplied by the weight of its class.
        """
        counted = where_counted(prediction, target != self.ignore_index)
        weight = None if self.class_weights is None else self.class_weights.to(prediction.dtype)
        return F.cross_entropy(
            counted, target, weight=weight, ignore_index=self.ignore_index, reduction="none", **settings
        )


def weights_of(name: str, weights: Sequence[float] | None, count: int) -> Tensor | None:
    """Weights as float32 of shape ``(count,)``; None stays None.

    Raises:
        ValueError: There are not ``count`` finite weights of 0 or more.
    """
    if weights is None:
        return None
    if len(weights) != count or not all(0 <= weight < math.inf for weight in weights):
        raise UserError(f"{name} must be {count} numbers of 0 or more, got {list(weights)}")
    return torch.tensor(weights, dtype=torch.float32)


def sample_of(outside: Tensor, index: Tensor | None) -> str:
    """The end of a sentence about a wrong label: which sample has it, if the samples' positions are known.

    Args:
        outside: True where a label is wrong, ``(N, *)``, at one position or more.
        index: The samples' positions in their data set, ``(N,)``.
    """
    return "" if index is None else f"; the sample has the index {int(index[outside.nonzero()[0, 0]])}"


def told_apart(names: Sequence[str], count: int, per_class: bool | None) -> Sequence[str] | None:
    """The names of the classes that have scores of their own; None if none has.

    Args:
        names: The names of the classes; empty if they are unknown, then their numbers are their names.
        count: The number of classes.
        per_class: Whether each class has; None stands for "if they are few and have names".
    """
    if per_class is None:
        per_class = bool(names) and count <= FEW_CLASSES
    return (names or tuple(map(str, range(count)))) if per_class else None
