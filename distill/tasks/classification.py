"""Classification: one of several classes for each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from distill.checks import check_share
from distill.errors import UserError
from distill.losses.parts.logits import where_counted
from distill.losses.parts.soft_labels import is_labelled
from distill.metrics import ClassificationScores
from distill.metrics.accuracy import Accuracy
from distill.tasks.parts.class_task import ClassTask, sample_of, told_apart

TOLERANCE = 1e-3
"""How far the sum of a distribution may be from 1: the rounding of 100 shares in half precision."""


class Classification(ClassTask):
    """One of ``num_classes`` classes for each sample.

    Predictions are logits ``(N, C)``. Targets are class indices ``(N,)``, or soft labels ``(N, C)``: floats of 0 or
    more that sum to 1, such as a mixup of labels or the share of votes. A row of zeros or of NaN is no label. The kind
    may differ between training and validation.

    The hard loss is cross entropy in nats. The metrics are ``accuracy`` (top-1), ``top5`` if there are more than 5
    classes, and the scores of :class:`~distill.metrics.ClassificationScores`: ``macro_accuracy``, ``macro_f1`` and the
    accuracy of each class, ``accuracy_<name>``. For these scores a soft label is its class with the highest share.
    ``val/accuracy`` picks the best epoch.

    Args:
        num_classes: C, the number of classes, at least 2.
        label_smoothing: The share of the target distribution that is spread evenly over all classes, in [0, 1]
            (Szegedy et al., CVPR 2016).
        ignore_index: Targets of this value count neither in the loss nor in the metrics.
        class_weights: The weight of each class, C values of 0 or more. The loss of a sample is multiplied by the weight
            of its class; each term of a soft label by that of its class. The mean is still over samples, so weights
            that average 1 over the samples keep the loss's size.
        class_names: The names of the classes, by index; those of the data module by default, if it has any.
        per_class: Whether to log the accuracy of each class; by default if there are at most 20 classes with names.
            Classes without names are called by their numbers.
    """

    monitor = "val/accuracy"
    mode = "max"

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float = 0.0,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        per_class: bool | None = None,
    ) -> None:
        super().__init__(num_classes, ignore_index, class_weights, class_names)
        check_share(label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing
        self.per_class = per_class

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits ``(N, C)`` with targets ``(N,)`` or ``(N, C)``, in nats, ``(N,)``; 0 if ignored."""
        if not target.is_floating_point():
            return self.cross_entropy(prediction, target, label_smoothing=self.label_smoothing)
        labelled = is_labelled(target)
        log_p = F.log_softmax(where_counted(prediction, labelled), 1)
        share = torch.where(labelled[:, None], target, 0).to(log_p.dtype)
        share = (1 - self.label_smoothing) * share + self.label_smoothing / self.num_classes
        if self.class_weights is not None:
            share = share * self.class_weights.to(log_p.dtype)
        # a logit of -inf masks a class: its term is 0 if its share is
        terms = share * log_p.masked_fill(share == 0, 0)
        return torch.where(labelled, -terms.sum(1), 0)

    def counts(self, target: Tensor) -> Tensor:
        """1 for every sample with a label, 0 for the ignored ones, ``(N,)``."""
        return is_labelled(target).float() if target.is_floating_point() else super().counts(target)

    def metrics(self) -> MetricCollection:
        """All scores over the samples with a label."""
        names = told_apart(self.class_names, self.num_classes, self.per_class)
        top_k = {"accuracy": 1, "top5": 5} if self.num_classes > 5 else {"accuracy": 1}
        return MetricCollection(
            {
                **{name: Accuracy(self.num_classes, k, ignore_index=self.ignore_index) for name, k in top_k.items()},
                "classes": ClassificationScores(self.num_classes, self.ignore_index, names),
            }
        )

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a ValueError unless every label is one of the classes, a distribution over them, or ignored."""
        if not target.is_floating_point():
            super().check_labels(target, data=data, index=index)
            return
        if target.ndim != 2:
            return  # check() says what is wrong
        wrong = is_labelled(target) & ~(((target.sum(1) - 1).abs() <= TOLERANCE) & (target >= 0).all(1))
        if wrong.any():
            raise UserError(
                f"{data}: each row of soft labels must hold shares of 0 or more that sum to 1, or only zeros or NaN "
                f"for no label, got {target[wrong][0].tolist()}{sample_of(wrong, index)}"
            )

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless each sample has C logits, and its label is a class, a distribution or ignored."""
        if prediction.ndim != 2 or prediction.shape[1] != self.num_classes:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but Classification(num_classes="
                f"{self.num_classes}) takes logits of shape (N, {self.num_classes})"
            )
        soft = target.is_floating_point() and target.shape == prediction.shape
        if not soft and (target.shape != prediction.shape[:1] or target.dtype != torch.int64):
            raise UserError(
                f"{data}: target must hold one class index per sample, int64 of shape ({len(prediction)},), got "
                f"{target.dtype} of shape {tuple(target.shape)}; soft labels are floats of shape "
                f"{tuple(prediction.shape)}"
            )
        self.check_labels(target, data=data)
