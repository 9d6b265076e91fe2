"""Classification with several labels: each class is there or not, independently of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from distill.checks import check_at_least
from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32
from distill.metrics import MultiLabelScores
from distill.metrics.parts.names import check_names
from distill.tasks.parts.channel_task import ChannelTask
from distill.tasks.parts.class_task import sample_of, told_apart, weights_of


class MultiLabelClassification(ChannelTask):
    """Any number of ``num_classes`` classes for each sample or position; with one class, yes or no.

    Predictions are logits ``(N, C)`` or ``(N, C, *)``; the probability of a class is the sigmoid of its logit. Targets
    have the same shape. They hold 0 or 1 as floats, integers or booleans, or probabilities in [0, 1]. A label of
    ``ignore_index`` or NaN is unknown and counts neither in the loss nor in the metrics. With one class the target may
    also have the shape ``(N,)``. Maps of another size are brought to the target's size: smaller ones are interpolated
    linearly, larger ones are averaged down.

    The hard loss is the binary cross entropy in nats, a mean over all known labels. The metrics are those of
    :class:`~distill.metrics.MultiLabelScores`; ``val/mAP`` picks the best epoch.

    Args:
        num_classes: C, the number of classes, at least 1.
        ignore_index: The value of unknown labels, outside [0, 1].
        pos_weight: The weight of the positive label of each class in the loss, C values of 0 or more, as in
            :class:`torch.nn.BCEWithLogitsLoss`; 1 by default.
        class_names: The names of the classes, by index; those of the data module by default, if it has any.
        per_class: Whether to log the average precision of each class, ``ap_<name>``; by default if there are at most 20
            classes with names. Classes without names are called by their numbers.
        thresholds: The number of intervals in which probabilities count as equal for the average precision. By default
            it is exact, and all logits of an evaluation are kept in memory; give 1000 for maps.
    """

    monitor = "val/mAP"
    mode = "max"
    exclusive = False
    pos_weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = -1,
        pos_weight: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        per_class: bool | None = None,
        thresholds: int | None = None,
    ) -> None:
        super().__init__(num_classes)
        check_at_least(1, num_classes=num_classes)
        if ignore_index in (0, 1):
            raise UserError(f"ignore_index {ignore_index} is a label: use another, as -1")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = check_names(class_names, num_classes) if class_names else ()
        self.per_class = per_class
        self.thresholds = thresholds
        self.register_buffer("pos_weight", weights_of("pos_weight", pos_weight, num_classes), persistent=False)
        self.metrics()  # raises an error if thresholds is not valid

    def probabilities(self, prediction: Tensor) -> Tensor:
        """The sigmoid of logits ``(N, C, *)``, in the same shape, in at least float32."""
        return at_least_float32(prediction).sigmoid()

    def known(self, target: Tensor) -> Tensor:
        """Whether each label is known, in the shape of the target."""
        return (target != self.ignore_index) & (target == target)  # NaN differs from itself

    def value_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The binary cross entropy of logits and labels ``(N, C, *)`` in nats, of the same shape."""
        positive, negative = target * F.logsigmoid(prediction), (1 - target) * F.logsigmoid(-prediction)
        # a logit of -inf masks a class: 0 times its log-probability is 0
        positive, negative = positive.masked_fill(target == 0, 0), negative.masked_fill(target == 1, 0)
        if self.pos_weight is not None:
            positive = positive * self.pos_weight.to(positive.dtype).view(-1, *[1] * (prediction.ndim - 2))
        return -(positive + negative)

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.MultiLabelScores`."""
        names = told_apart(self.class_names, self.num_classes, self.per_class)
        return MetricCollection([MultiLabelScores(self.num_classes, names, self.ignore_index, self.thresholds)])

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a ValueError unless every label lies in [0, 1] or is unknown."""
        wrong = self.known(target) & ~((target >= 0) & (target <= 1))
        if wrong.any():
            raise UserError(
                f"{data}: target holds the label {target[wrong][0].item():g}, but labels are 0 or 1, a probability "
                f"between them, or {self.ignore_index} where they are unknown{sample_of(wrong, index)}"
            )

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless each position has C logits and as many labels in [0, 1] or unknown."""
        takes = f"MultiLabelClassification(num_classes={self.num_classes}) takes logits"
        self.check_shapes(prediction, target, model=model, data=data, takes=takes)
        self.check_labels(target, data=data)
