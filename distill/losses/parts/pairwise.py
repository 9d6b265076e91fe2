"""Relations between all samples of a batch: features as rows, and their distances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32, without_autocast

COLUMNS = 128
"""Columns of the features that are centred at a time; more if there are few rows."""

NUMBERS = 2**16
"""Numbers in a strip of few rows: 512 kB of float64, which stay in the cache."""

EQUAL = torch.finfo(torch.float32).eps ** 2
"""Two rows count as equal if their squared distance is at most this share of their squared norms."""


def rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The features of each sample as one row.

    Args:
        student: ``(N, *)``.
        teacher: ``(N, *)`` with the same N.

    Returns:
        ``(N, D)`` and ``(N, E)``; float32, or float64 if the features are float64.

    Raises:
        ValueError: The numbers of samples differ, or the features have no dim beside the samples.
    """
    if len(student) != len(teacher) or min(student.ndim, teacher.ndim) < 2:
        raise UserError(
            "student and teacher must hold features of the same samples, (N, C, *), got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    return at_least_float32(student).flatten(1), at_least_float32(teacher).flatten(1)


def of_no_pair(features: Tensor) -> Tensor:
    """The loss of fewer than 2 samples: 0, or NaN if the features are not finite; its gradient is 0."""
    return (0 * at_least_float32(features)).sum()


def mean_of_pairs(values: Tensor) -> Tensor:
    """The mean of the values of all pairs of samples, ``(N, N)``; 0 without samples."""
    return values.sum() / max(1, values.numel())


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    r"""The squared Euclidean distances between the rows of two tensors.

    Computed as :math:`\lVert a \rVert^2 + \lVert b \rVert^2 - 2 a b`, which is a matrix product and needs no tensor of
    all differences. The rows are centred and in float64, so the result has the digits of the differences themselves,
    also if the features lie far from 0. Equal rows have exactly 0. If both arguments are the same tensor, each pair of
    rows is computed once.

    Args:
        first: ``(N, D)``.
        second: ``(M, D)``.

    Returns:
        ``(N, M)``, of the same dtype.
    """
    if first is second:
        return _table(squared_distances_of_pairs(first), len(first))
    distances: Tensor = _SquaredDistances.apply(first, second)
    return distances


def squared_distances_of_pairs(points: Tensor) -> Tensor:
    """The squared Euclidean distances of all pairs of rows, from their differences; equal rows have exactly 0.

    Args:
        points: ``(N, D)``.

    Returns:
        ``(N (N - 1) / 2,)``, for the rows (0, 1), (0, 2), ..., (1, 2), ..., of the same dtype.
    """
    squared: Tensor = _SquaredDistancesOfPairs.apply(points)
    return squared


def distances(squared: Tensor) -> Tensor:
    """The square roots of squared distances; a distance of 0 has gradient 0, not infinity."""
    equal = squared <= 0
    return torch.where(equal, 0, torch.where(equal, 1, squared).sqrt())


class _SquaredDistances(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        center = second.mean(0)
        ctx.save_for_backward(first, second, center)
        squares = first.new_zeros(len(first), len(second), dtype=torch.float64)
        products = torch.zeros_like(squares)
        strips = (tensor.split(_columns(first, second), dim=-1) for tensor in (first, second, center))
        for one, other, middle in zip(*strips, strict=True):
            a, b = (columns.to(torch.float64, copy=True).sub_(middle) for columns in (one, other))
            norms, other_norms = torch.linalg.vector_norm(a, dim=1), torch.linalg.vector_norm(b, dim=1)
            squares += norms.square().unsqueeze(1) + other_norms.square()
            products.addmm_(a, b.mT)
        squared = squares - 2 * products
        return torch.where(squared <= EQUAL * squares, 0, squared).to(first.dtype)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        first, second, center = ctx.saved_tensors
        of_first, of_second = (
            torch.empty_like(tensor) if need else None
            for tensor, need in zip((first, second), ctx.needs_input_grad, strict=True)
        )
        columns = _columns(first, second)
        for start in range(0, first.shape[1], columns):
            strip = slice(start, start + columns)
            a, b = first[:, strip] - center[strip], second[:, strip] - center[strip]
            if of_first is not None:
                of_first[:, strip] = (gradient.sum(1, keepdim=True) * a).sub_(gradient @ b).mul_(2)
            if of_second is not None:
                of_second[:, strip] = (gradient.sum(0).unsqueeze(1) * b).sub_(gradient.mT @ a).mul_(2)
        return of_first, of_second


class _SquaredDistancesOfPairs(torch.autograd.Function):
    # torch's gradient of pdist takes several times as long and has no second derivative
    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(points: Tensor) -> Tensor:
        squared = points.new_zeros(len(points) * (len(points) - 1) // 2)
        for strip in points.split(_columns(points, points), dim=1):  # float32 loses digits in longer sums
            squared += torch.pdist(strip).square_()
        return squared

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (points,) = ctx.saved_tensors
        weights = _table(gradient, len(points))
        matrix = 2 * (torch.diag(weights.sum(1)) - weights)
        in_points = torch.empty_like(points)
        columns = _columns(points, points)
        for start in range(0, points.shape[1], columns):
            strip = slice(start, start + columns)
            in_points[:, strip] = matrix @ (points[:, strip] - points[:, strip].mean(0))
        return in_points


def _table(of_pairs: Tensor, samples: int) -> Tensor:
    """The symmetric table ``(N, N)`` of values of pairs, with 0 on its diagonal."""
    above = torch.ones(samples, samples, dtype=torch.bool, device=of_pairs.device).triu_(1)
    table = of_pairs.new_zeros(samples, samples).masked_scatter(above, of_pairs)
    return table + table.mT


def _columns(first: Tensor, second: Tensor) -> int:
    return max(COLUMNS, NUMBERS // max(1, len(first), len(second)))
