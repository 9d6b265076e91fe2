"""Central moment discrepancy: the distance of two distributions, moment by moment."""

from __future__ import annotations

import math
from math import comb
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from distill.checks import check_at_least
from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32


def central_moment_discrepancy(
    a: Tensor, b: Tensor, *, moments: int = 5, bounds: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    r"""The central moment discrepancy of two samples; 0 if and only if all their moments up to K are equal.

    .. math::
        \mathrm{CMD}_K = \frac{\lVert E(a) - E(b) \rVert_2}{|u - l|}
            + \sum_{k=2}^K \frac{\lVert C_k(a) - C_k(b) \rVert_2}{|u - l|^k}, \quad C_k(x) = E((x - E(x))^k)

    with the power taken per feature. It has no unit. It is differentiable; a moment that is equal has gradient 0.

    Args:
        a: One sample a row, ``(N, D)``: features, or probabilities of D classes.
        b: ``(M, D)``; M may differ from N.
        moments: K, the highest moment, at least 1.
        bounds: l and u, between which the features lie. Wider bounds give higher moments less weight; for features
            without bounds, ``(0, 1)`` takes the moments as they are.

    Returns:
        A scalar; float32, or float64 where an input is.

    Raises:
        ValueError: An input is empty or not of shape ``(N, D)``, the numbers of features differ, ``moments`` is below
            1, or ``bounds`` is not an interval.

    Source: Zellinger et al., Central Moment Discrepancy (CMD) for Domain-Invariant Representation Learning, ICLR 2017,
    Definition 2.

    Example:
        >>> student = torch.tensor([[0.1], [0.3]])
        >>> teacher = torch.tensor([[0.4], [0.8]])
        >>> central_moment_discrepancy(student, teacher, moments=1)
        tensor(0.4000)
        >>> central_moment_discrepancy(student, teacher, moments=2)
        tensor(0.4300)
    """
    _check_options(moments, bounds)
    _check_samples(a, b)
    if len(a) == 0 or len(b) == 0:
        raise UserError(f"a and b must hold at least one row each, got {len(a)} and {len(b)}")
    return _discrepancy(
        _central_moments(at_least_float32(a), moments), _central_moments(at_least_float32(b), moments), bounds
    )


class CentralMomentDiscrepancy(Metric):
    """:func:`central_moment_discrepancy` of all rows, over batches and processes.

    It sums powers around the middle of the bounds in float64. So it equals the discrepancy of all rows at once, up to
    rounding, for any batches and processes, and it needs memory for K + 1 rows of each argument. It is NaN (after
    torchmetrics' warning) without rows. It needs a device that has float64.

    Args:
        moments: K, the highest moment, at least 1.
        bounds: The numbers between which the features lie.
        kwargs: Further arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: ``moments`` is below 1 or ``bounds`` is not an interval; on update, an input does not have shape
            ``(N, D)``, or D is not that of the other input and of the batches before.

    Example:
        >>> metric = CentralMomentDiscrepancy(moments=2)
        >>> metric.update(torch.tensor([[0.1], [0.3]]), torch.tensor([[0.4]]))
        >>> metric.update(torch.empty(0, 1), torch.tensor([[0.8]]))
        >>> metric.compute()
        tensor(0.4300, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    # otherwise forward() would add a batch's sums to sums that have no size yet
    full_state_update = True

    power_sums_a: Tensor
    power_sums_b: Tensor

    def __init__(self, moments: int = 5, bounds: tuple[float, float] = (0.0, 1.0), **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _gather_sums, **kwargs})
        _check_options(moments, bounds)
        self.moments = moments
        self.bounds = (float(bounds[0]), float(bounds[1]))
        # row k holds the sums of the k-th powers, so row 0 the number of rows; the first update tells D
        unsized = torch.zeros(moments + 1, 0, dtype=torch.float64)
        self.add_state("power_sums_a", unsized.clone(), dist_reduce_fx="sum")
        self.add_state("power_sums_b", unsized.clone(), dist_reduce_fx="sum")

    def update(self, a: Tensor, b: Tensor) -> None:
        """Adds rows to both samples.

        Args:
            a: ``(N, D)``.
            b: ``(M, D)``; M may differ from N.
        """
        _check_samples(a, b)
        seen, features = self.power_sums_a.shape[1], a.shape[1]
        if seen not in (0, features):
            raise UserError(f"a and b must have {seen} features as in the batches before, got {features}")
        self.power_sums_a = self._add(self.power_sums_a, a)
        self.power_sums_b = self._add(self.power_sums_b, b)

    def compute(self) -> Tensor:
        """The discrepancy of all rows, a float64 scalar."""
        if self.power_sums_a.shape[1] == 0:
            return self.power_sums_a.new_tensor(torch.nan)
        return _discrepancy(self._moments_of(self.power_sums_a), self._moments_of(self.power_sums_b), self.bounds)

    def _add(self, power_sums: Tensor, rows: Tensor) -> Tensor:
        shifted = rows.double() - self._shift
        power = torch.ones_like(shifted)
        sums = [power.sum(0)]
        for _ in range(self.moments):
            power.mul_(shifted)
            sums.append(power.sum(0))
        return power_sums + torch.stack(sums) if power_sums.shape[1] else torch.stack(sums)

    def _moments_of(self, power_sums: Tensor) -> list[Tensor]:
        raw = power_sums / power_sums[0]
        mean = raw[1]
        central = [
            sum((comb(k, j) * raw[j] * (-mean) ** (k - j) for j in range(k + 1)), torch.zeros_like(mean))
            for k in range(2, self.moments + 1)
        ]
        return [mean + self._shift, *central]

    @property
    def _shift(self) -> float:
        """The middle of the bounds: powers around it cancel least when central moments are computed from them."""
        return sum(self.bounds) / 2


def _central_moments(rows: Tensor, moments: int) -> list[Tensor]:
    mean = rows.mean(0)
    centred = rows - mean
    return [mean, *((centred**k).mean(0) for k in range(2, moments + 1))]


def _discrepancy(a: list[Tensor], b: list[Tensor], bounds: tuple[float, float]) -> Tensor:
    width = bounds[1] - bounds[0]
    # at 0 vector_norm has gradient 0, the square root of a sum of squares has NaN
    terms = [
        torch.linalg.vector_norm(of_a - of_b) / width**k for k, (of_a, of_b) in enumerate(zip(a, b, strict=True), 1)
    ]
    return torch.stack(terms).sum()


def _gather_sums(local: Tensor, group: Any = None) -> list[Tensor]:
    """The sums of all processes; zeros for a process without rows, which does not know D."""
    gathered = gather_all_tensors(local, group)
    sizes = sorted({sums.shape[1] for sums in gathered} - {0})
    if len(sizes) > 1:
        raise UserError(f"a and b must have the same number of features in every process, got {sizes}")
    features = max(sums.shape[1] for sums in gathered)
    return [F.pad(sums, (0, features - sums.shape[1])) for sums in gathered]


def _check_options(moments: int, bounds: tuple[float, float]) -> None:
    check_at_least(1, moments=moments)
    if not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise UserError(f"bounds must be a lower and a higher number, got {tuple(bounds)}")


def _check_samples(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(
            f"a and b must have shapes (N, D) and (M, D) with the same D, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
