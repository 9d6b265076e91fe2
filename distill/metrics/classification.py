"""Scores of a classification in which each class has the same weight, and the accuracy of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.checks import check_at_least
from distill.losses.parts.soft_labels import class_indices
from distill.metrics.accuracy import count_undefined
from distill.metrics.parts.names import check_names


class ClassificationScores(Metric):
    r"""The macro scores of a classification, in [0, 1]: means over the classes, so that each class counts the same.

    With the true positives, false positives and false negatives of class c over all labelled samples,

    .. math::
        \mathrm{accuracy}_c = \frac{TP_c}{TP_c + FN_c}, \quad F_{1, c} = \frac{2 TP_c}{2 TP_c + FP_c + FN_c}

    ``macro_accuracy`` is the mean of the first over the classes with a labelled sample, which is also called balanced
    accuracy or mean recall. ``macro_f1`` is the mean of the second over the classes that are labelled or predicted.
    ``accuracy_<name>`` is the accuracy of one class; it is NaN for a class without a labelled sample. States are
    integer counts, so the scores are exact for any batches and processes. All scores are NaN if the logits of a
    labelled sample are undefined: one of them is NaN, or all are -inf.

    Args:
        num_classes: C, at least 2.
        ignore_index: Samples with this target do not count.
        class_names: The names of the classes whose accuracy is told apart; none by default.
        **kwargs: As in :class:`torchmetrics.Metric`.

    Raises:
        ValueError: The number of names is not that of the classes, or two names are equal.

    Shapes of ``update``: logits ``(N, C)``, and class indices ``(N,)`` or distributions ``(N, C)``, whose highest share
    is the class.

    Example:
        >>> scores = ClassificationScores(2, class_names=["cat", "dog"])
        >>> scores.update(torch.eye(2)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1]))
        >>> {name: round(value.item(), 3) for name, value in scores.compute().items()}
        {'macro_accuracy': 0.75, 'macro_f1': 0.733, 'accuracy_cat': 1.0, 'accuracy_dog': 0.5}
    """

    is_differentiable = False
    full_state_update = False

    labelled: Tensor
    predicted: Tensor
    right: Tensor
    undefined: Tensor

    def __init__(
        self, num_classes: int, ignore_index: int = 255, class_names: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(2, num_classes=num_classes)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = check_names(class_names, num_classes) if class_names else ()
        for state in ("labelled", "predicted", "right"):
            self.add_state(state, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds logits ``(N, C)`` and targets ``(N,)`` or ``(N, C)``."""
        target = class_indices(target, self.ignore_index)
        self.undefined = self.undefined + count_undefined(preds, target, self.ignore_index)
        counted = target != self.ignore_index
        labels, classes = target[counted], preds.argmax(1)[counted]
        self.labelled = self.labelled + self._count(labels)
        self.predicted = self.predicted + self._count(classes)
        self.right = self.right + self._count(labels[labels == classes])

    def compute(self) -> dict[str, Tensor]:
        """All scores by name, float64 scalars; NaN if no sample was labelled, or the logits of one are undefined."""
        right = torch.where(self.undefined > 0, torch.nan, self.right.double())
        accuracy = right / self.labelled
        f1 = 2 * right / (self.labelled + self.predicted)
        return {
            "macro_accuracy": accuracy.nanmean(),
            "macro_f1": f1.nanmean(),
            **{f"accuracy_{name}": value for name, value in zip(self.class_names, accuracy, strict=False)},
        }

    def _count(self, classes: Tensor) -> Tensor:
        return torch.bincount(classes, minlength=self.num_classes)
