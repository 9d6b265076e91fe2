"""Vectors of length 1."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 1e-30
"""A vector that is shorter counts as one of zeros: in float32 the gradient of its direction would overflow."""


def unit_vectors(vectors: Tensor, dim: int = -1) -> Tensor:
    """The vectors divided by their L2 norm; a vector of zeros stays 0.

    A vector of zeros has no direction. The usual small constant in the denominator would divide its gradient by that
    constant, and so make it 1e12 times that of other vectors. Here its gradient is divided by 1. A vector with a NaN is
    NaN.

    Args:
        vectors: Any shape.
        dim: The dim along which the norm is taken.

    Returns:
        The same shape.
    """
    norms = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / torch.where(norms < SHORTEST, 1, norms)
