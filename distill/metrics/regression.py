"""Scores of predicted numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.checks import check_at_least
from distill.metrics.parts.channels import by_position
from distill.metrics.parts.names import check_names


class RegressionScores(Metric):
    r"""The scores of predicted numbers :math:`\hat y` against measured numbers y.

    ``mae`` is the mean of :math:`|\hat y - y|`, and ``rmse`` the root of the mean of :math:`(\hat y - y)^2`, over all
    measured numbers, in the unit of the target. ``r2`` is the mean over the outputs of the coefficient of determination

    .. math::
        R^2 = 1 - \frac{\sum (\hat y - y)^2}{\sum (y - \bar y)^2}

    which is 1 for a perfect prediction, and 0 for the mean of the measured numbers. An output whose measured numbers
    are all equal has none (NaN) and does not count in the mean. With names, ``mae_<name>``, ``rmse_<name>`` and
    ``r2_<name>`` are the scores of each output.

    Sums are in float64, so the scores are the same for any batches and processes. They need a device that has float64.
    A prediction of NaN where there is a measured number makes the scores NaN.

    Args:
        outputs: D, the number of outputs, at least 1.
        output_names: The names of the outputs whose scores are told apart; none by default.
        **kwargs: As in :class:`torchmetrics.Metric`.

    Raises:
        ValueError: There is no output, the number of names is not that of the outputs, or two names are equal.

    Shapes of ``update``: predictions and targets ``(N, D, *)``; with one output also targets ``(N,)``. Targets of NaN
    are missing and do not count.

    Example:
        >>> scores = RegressionScores(1)
        >>> scores.update(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[1.0], [4.0], [torch.nan]]))
        >>> {name: round(value.item(), 3) for name, value in scores.compute().items()}
        {'mae': 1.0, 'rmse': 1.414, 'r2': 0.111}
    """

    is_differentiable = False
    full_state_update = False

    sums: Tensor

    def __init__(self, outputs: int = 1, output_names: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, outputs=outputs)
        self.output_names = check_names(output_names, outputs, "output_names") if output_names else ()
        # by output: the number of values, and the sums of absolute errors, squared errors, values and squared values
        self.add_state("sums", torch.zeros(5, outputs, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds predictions and targets ``(N, D, *)``."""
        predicted, measured = by_position(preds).double(), by_position(target).double()
        known = ~measured.isnan()
        error, measured = torch.where(known, predicted - measured, 0), measured.nan_to_num(nan=0)
        terms = known, error.abs(), error.square(), measured, measured.square()
        self.sums = self.sums + torch.stack([term.sum(0, dtype=torch.float64) for term in terms])

    def compute(self) -> dict[str, Tensor]:
        """All scores by name, float64 scalars; NaN if nothing was measured."""
        count, absolute, square, total, squares = self.sums
        spread = squares - total.square() / count
        # rounding leaves a spread of about 1e-16 of the squares where all values are equal
        r2 = torch.where(spread > 1e-14 * squares, 1 - square / spread, torch.nan)
        mae, rmse = absolute / count, (square / count).sqrt()
        scores = {
            "mae": absolute.sum() / count.sum(),
            "rmse": (square.sum() / count.sum()).sqrt(),
            "r2": torch.where(square.isnan().any(), torch.nan, r2.nanmean()),
        }
        for place, name in enumerate(self.output_names):
            scores |= {f"mae_{name}": mae[place], f"rmse_{name}": rmse[place], f"r2_{name}": r2[place]}
        return scores
