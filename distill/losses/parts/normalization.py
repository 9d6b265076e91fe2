"""Vectors of length 1."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_vectors(vectors: Tensor, dim: int = -1) -> Tensor:
    """Divides vectors by their L2 norm; those that are 0 stay 0.

    A vector of zeros has no direction. A small constant in the denominator, the common way out, hands such a vector the
    gradient divided by that constant: 1e12 times what the others get. Here it gets the gradient as it is.

    Args:
        vectors: Any shape.
        dim: Along which the norm is taken.

    Returns:
        Of the same shape.
    """
    norms = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / torch.where(norms > 0, norms, 1)
