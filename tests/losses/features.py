"""Random features of a student and a teacher, and gradients of what is computed from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def features(*shape: int, seed: int = 0) -> Tensor:
    """Independent normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int = 7) -> Tensor:
    """A random orthogonal matrix."""
    matrix: Tensor = torch.linalg.qr(features(size, size, seed=seed))[0]
    return matrix


def gradients(function: Callable[..., Tensor], *points: Tensor) -> tuple[Tensor, ...]:
    """The gradients of the sum of what a function returns, with respect to each of its arguments."""
    leaves = [point.detach().clone().requires_grad_() for point in points]
    return torch.autograd.grad(function(*leaves).sum(), leaves)
