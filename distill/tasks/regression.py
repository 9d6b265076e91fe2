"""Regression: one or more numbers for each sample or position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from distill.checks import check_at_least, check_option, check_positive
from distill.errors import UserError
from distill.metrics import RegressionScores
from distill.metrics.parts.names import check_names
from distill.tasks.parts.channel_task import ChannelTask

RegressionLoss = Literal["mse", "l1", "smooth_l1", "huber"]


class Regression(ChannelTask):
    r"""``outputs`` numbers for each sample, or for each point, pixel or voxel.

    Predictions are ``(N, D)`` or ``(N, D, *)``, targets floats of the same shape. A target of NaN is missing and counts
    neither in the loss nor in the metrics. With one output the target may also have the shape ``(N,)``. Maps of another
    size are brought to the target's size: smaller ones are interpolated linearly, larger ones are averaged down.

    The hard loss is a mean over all measured numbers. With the error e of a number, it is

    - ``mse``: :math:`e^2`;
    - ``l1``: :math:`|e|`;
    - ``huber``: :math:`e^2 / 2` if :math:`|e| < \beta`, else :math:`\beta (|e| - \beta / 2)`;
    - ``smooth_l1``: the Huber loss divided by :math:`\beta`.

    The metrics are those of :class:`~distill.metrics.RegressionScores`; ``val/mae`` picks the best epoch.

    Args:
        outputs: D, the number of outputs, at least 1.
        loss: Which loss.
        beta: The error in the unit of the target at which ``huber`` and ``smooth_l1`` change from a square to a line.
        output_names: The names of the outputs; with names, the scores of each output are logged, ``mae_<name>``.
    """

    monitor = "val/mae"
    mode = "min"

    def __init__(
        self,
        outputs: int = 1,
        loss: RegressionLoss = "mse",
        beta: float = 1.0,
        output_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(outputs)
        check_at_least(1, outputs=outputs)
        check_option("loss", loss, get_args(RegressionLoss))
        check_positive(beta=beta)
        self.outputs = outputs
        self.kind = loss
        self.beta = beta
        self.output_names = check_names(output_names, outputs, "output_names") if output_names else ()

    def known(self, target: Tensor) -> Tensor:
        """Whether each number was measured, in the shape of the target."""
        return ~target.isnan()

    def value_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of each number, ``(N, D, *)``."""
        if self.kind == "mse":
            return F.mse_loss(prediction, target, reduction="none")
        if self.kind == "l1":
            return F.l1_loss(prediction, target, reduction="none")
        if self.kind == "huber":
            return F.huber_loss(prediction, target, reduction="none", delta=self.beta)
        return F.smooth_l1_loss(prediction, target, reduction="none", beta=self.beta)

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.RegressionScores`."""
        return MetricCollection([RegressionScores(self.outputs, self.output_names)])

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a ValueError if the target holds integers, which cannot say what is missing, or infinite numbers."""
        if not target.is_floating_point():
            raise UserError(f"{data}: target must hold floats, and NaN where a number is missing, got {target.dtype}")
        if target.isinf().any():
            raise UserError(f"{data}: target holds an infinite number: use NaN where a number is missing")

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless each position has D finite numbers, and as many are measured or missing."""
        takes = f"Regression(outputs={self.outputs}) takes numbers"
        self.check_shapes(prediction, target, model=model, data=data, takes=takes)
        if not prediction.isfinite().all():
            raise UserError(f"{model} returns numbers that are NaN or infinite")
        self.check_labels(target, data=data)
