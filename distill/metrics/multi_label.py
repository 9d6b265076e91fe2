"""Scores of the predictions of several labels a sample."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities.data import dim_zero_cat

from distill.checks import check_at_least
from distill.metrics.parts.channels import by_position
from distill.metrics.parts.names import check_names


class MultiLabelScores(Metric):
    r"""The scores of several labels a sample, in [0, 1].

    ``mAP`` is the mean over the labels of the average precision

    .. math::
        \mathrm{AP}_c = \sum_n (R_n - R_{n-1}) P_n

    with the precision P and recall R at each distinct prediction, from the highest. Labels without a positive sample
    have no average precision (NaN) and do not count in the mean. With true positives, false positives and false
    negatives at the probability 1/2, which is the logit 0, ``micro_f1`` is :math:`2 TP / (2 TP + FP + FN)` of all
    labels together, and ``macro_f1`` the mean of that of each label that is given or predicted anywhere. ``accuracy``
    is the share of known labels that are right. ``ap_<name>`` is the average precision of one label.

    The scores are the same for any batches and processes. All are NaN if the logit of a known label is NaN.

    Args:
        num_classes: C, the number of labels, at least 1.
        class_names: The names of the labels whose average precision is told apart; none by default.
        ignore_index: The value of unknown labels.
        thresholds: The number of equal intervals of the probability in which predictions count as equal, at least 2.
            The memory then does not grow with the data, as for maps. By default the average precision is exact, and all
            logits are kept.
        **kwargs: As in :class:`torchmetrics.Metric`.

    Raises:
        ValueError: A number is too small, the number of names is not that of the labels, or two names are equal.

    Shapes of ``update``: logits and targets ``(N, C, *)``; with one label also targets ``(N,)``. A target of 1/2 or
    more is a positive label, a smaller one is a negative label. ``ignore_index`` and NaN are unknown labels, which do
    not count.

    Example:
        >>> scores = MultiLabelScores(1)
        >>> scores.update(torch.tensor([[2.0], [1.0], [-1.0]]), torch.tensor([[1.0], [0.0], [1.0]]))
        >>> {name: round(value.item(), 3) for name, value in scores.compute().items()}
        {'mAP': 0.833, 'micro_f1': 0.5, 'macro_f1': 0.5, 'accuracy': 0.333}
    """

    is_differentiable = False
    full_state_update = False

    logits: Any
    labels: Any
    histogram: Tensor
    counts: Tensor
    undefined: Tensor

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        ignore_index: int = -1,
        thresholds: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_classes=num_classes)
        check_at_least(2, thresholds=thresholds)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.thresholds = thresholds
        self.class_names = check_names(class_names, num_classes) if class_names else ()
        if thresholds is None:  # flat, because torchmetrics gathers a flat tensor from a process without data
            self.add_state("logits", [], dist_reduce_fx="cat")
            self.add_state("labels", [], dist_reduce_fx="cat")
        else:  # negative and positive labels in each interval, by label
            shape = num_classes, thresholds, 2
            self.add_state("histogram", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        # true and false positives, true and false negatives, by label
        self.add_state("counts", torch.zeros(4, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds logits and targets ``(N, C, *)``."""
        logits, labels = by_position(preds), by_position(target)
        known, positive = (labels != self.ignore_index) & ~labels.isnan(), labels >= 0.5
        self.undefined = self.undefined + (known & logits.isnan()).sum()
        found = logits >= 0
        cases = positive & found, ~positive & found, ~positive & ~found, positive & ~found
        self.counts = self.counts + torch.stack([(case & known).sum(0) for case in cases])
        if self.thresholds is None:
            self.logits.append(logits.float().flatten())
            self.labels.append(torch.where(known, positive.float(), -1).flatten())
            return
        interval = (logits.float().sigmoid() * self.thresholds).nan_to_num().long().clamp(max=self.thresholds - 1)
        label = torch.arange(self.num_classes, device=logits.device)
        cell = ((label * self.thresholds + interval) * 2 + positive)[known]
        self.histogram = self.histogram + torch.bincount(cell, minlength=self.histogram.numel()).view_as(self.histogram)

    def compute(self) -> dict[str, Tensor]:
        """All scores by name, float64 scalars."""
        precisions = self._exact() if self.thresholds is None else self._of_intervals()
        undefined = self.undefined > 0
        tp, fp, tn, fn = torch.where(undefined, torch.nan, self.counts.double())
        precisions = torch.where(undefined.to(precisions.device), torch.nan, precisions)
        return {
            "mAP": precisions.nanmean(),
            "micro_f1": 2 * tp.sum() / (2 * tp + fp + fn).sum(),
            "macro_f1": (2 * tp / (2 * tp + fp + fn)).nanmean(),
            "accuracy": (tp + tn).sum() / (tp + fp + tn + fn).sum(),
            **{f"ap_{name}": value for name, value in zip(self.class_names, precisions, strict=False)},
        }

    def _exact(self) -> Tensor:
        logits, labels = (dim_zero_cat(state).view(-1, self.num_classes).cpu() for state in (self.logits, self.labels))
        return torch.stack([_average_precision(*columns) for columns in zip(logits.T, labels.T, strict=True)])

    def _of_intervals(self) -> Tensor:
        negative, positive = self.histogram.flip(1).cumsum(1).double().unbind(-1)
        found = self.histogram[..., 1].flip(1)
        precision = positive / (positive + negative).clamp(min=1)
        return (precision * found).sum(1) / positive[:, -1]


def _average_precision(logits: Tensor, labels: Tensor) -> Tensor:
    """The average precision of one label, a float64 scalar; NaN without a positive sample."""
    if not (labels == 1).any():
        return torch.tensor(torch.nan, dtype=torch.float64)
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    # only the order matters; a sigmoid would make large logits equal
    values, rank = logits.unique(return_inverse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return binary_average_precision(rank.double() / len(values), labels.long(), validate_args=False).double()
