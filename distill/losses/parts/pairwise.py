"""Relations between all samples of a batch: their features as rows, distances, and tables too large to hold at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.errors import UserError
from distill.losses.parts.logits import at_least_float32
from distill.losses.parts.precision import without_autocast

COLUMNS = 128
"""Columns of the features that are centred at a time; more of them where there are few rows."""

NUMBERS = 2**16
"""How many numbers a strip of few rows has: 512 kB of float64, which stay in the cache."""

EQUAL = torch.finfo(torch.float32).eps ** 2
"""Rows whose squared distance is this part of their squared norms, or less, are the same row."""


def rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The features of each sample as one row.

    Args:
        student: ``(N, *)``.
        teacher: ``(N, *)`` with the same N.

    Returns:
        ``(N, D)`` and ``(N, E)``; float32, or float64 where the features are.

    Raises:
        ValueError: The numbers of samples differ, or features have no dim beside them.
    """
    if len(student) != len(teacher) or min(student.ndim, teacher.ndim) < 2:
        raise UserError(
            "student and teacher must hold features of the same samples, (N, C, *), got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    return at_least_float32(student).flatten(1), at_least_float32(teacher).flatten(1)


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    r"""The squared Euclidean distance of every row of one to every row of the other.

    As :math:`\lVert a \rVert^2 + \lVert b \rVert^2 - 2 a b`, which needs no tensor of all differences and is a product
    of matrices. Centred and in float64 it has the digits of the differences themselves, also where the features lie
    far from 0. Equal rows have exactly 0. Where both are the same tensor, each pair of rows is looked at once.

    Args:
        first: ``(N, D)``.
        second: ``(M, D)``.

    Returns:
        ``(N, M)``, of the same type.
    """
    if first is second:
        return _table(squared_distances_of_pairs(first), len(first))
    distances: Tensor = _SquaredDistances.apply(first, second)
    return distances


def squared_distances_of_pairs(points: Tensor) -> Tensor:
    """The squared Euclidean distance of every two rows, from their differences; equal rows have exactly 0.

    Args:
        points: ``(N, D)``.

    Returns:
        ``(N (N - 1) / 2,)``, of rows (0, 1), (0, 2), ..., (1, 2), ..., of the same type.
    """
    squared: Tensor = _SquaredDistancesOfPairs.apply(points)
    return squared


def distances(squared: Tensor) -> Tensor:
    """The square roots of squared distances, with gradient 0 rather than infinite where they are 0."""
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def by_rows(
    function: Callable[..., Tensor], *tensors: Tensor, shared: tuple[Tensor, ...], numbers: int, at_most: int
) -> Tensor:
    """Applies ``function`` to a few rows at a time, and makes what it needs again for the gradient.

    Args:
        function: Called with rows of the tensors and with ``shared``; treats every row on its own, and draws no random
            numbers.
        tensors: What is split into rows, ``(N, *)``, with the same N.
        shared: What every call gets whole.
        numbers: How many numbers a tensor inside ``function`` has per row.
        at_most: How many numbers such a tensor may have; one row is taken where that is less.

    Returns:
        What ``function`` returns, ``(N, *)``.
    """
    count = max(1, at_most // numbers)
    if len(tensors[0]) <= count:
        return function(*tensors, *shared)
    values: Tensor = _ByRows.apply(function, count, len(tensors), *tensors, *shared)
    return values


class _ByRows(torch.autograd.Function):
    # torch.utils.checkpoint does the same, but its first call takes seconds and 150 MB to load the compiler
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], count: int, split: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.count, ctx.split = function, count, split
        ctx.save_for_backward(*tensors)
        few = zip(*(tensor.split(count) for tensor in tensors[:split]), strict=True)
        return torch.cat([function(*rows, *tensors[split:]) for rows in few])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        totals = [torch.zeros_like(tensor) if need else None for tensor, need in zip(tensors, needed, strict=True)]
        for start in range(0, len(gradient), ctx.count):
            # of the shared tensors all rows
            parts = [slice(start, start + ctx.count) if i < ctx.split else slice(None) for i in range(len(tensors))]
            inputs = [
                tensor[part].detach().requires_grad_(need)
                for tensor, part, need in zip(tensors, parts, needed, strict=True)
            ]
            with torch.enable_grad():
                values = ctx.function(*inputs)
            leaves = [tensor for tensor in inputs if tensor.requires_grad]
            slopes = iter(torch.autograd.grad(values, leaves, gradient[parts[0]]))
            for total, part in zip(totals, parts, strict=True):
                if total is not None:
                    total[part] += next(slopes)
        return None, None, None, *totals


class _SquaredDistances(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        center = second.mean(0)
        ctx.save_for_backward(first, second, center)
        squares = first.new_zeros(len(first), len(second), dtype=torch.float64)
        products = torch.zeros_like(squares)
        strips = (tensor.split(_columns(first, second), dim=-1) for tensor in (first, second, center))
        for ours, theirs, middle in zip(*strips, strict=True):
            a, b = (columns.to(torch.float64, copy=True).sub_(middle) for columns in (ours, theirs))
            norms, other_norms = torch.linalg.vector_norm(a, dim=1), torch.linalg.vector_norm(b, dim=1)
            squares += norms.square().unsqueeze(1) + other_norms.square()
            products.addmm_(a, b.mT)
        squared = squares - 2 * products
        return torch.where(squared > EQUAL * squares, squared, 0).to(first.dtype)

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
    # torch's gradient of pdist takes several times as long, and cannot be differentiated again
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
