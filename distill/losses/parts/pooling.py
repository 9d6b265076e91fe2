"""Feature maps of different sizes pooled to a common size."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32

POOLS: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def to_common_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pools two feature maps to the smaller of their sizes along each spatial dim.

    Args:
        first: ``(N, C, *)`` with up to three spatial dims, or none.
        second: ``(N, D, *)`` with the same N and the same number of spatial dims.

    Returns:
        Both maps with equal spatial sizes; float32, or float64 if they are float64. A map that has the size already is
        not copied.

    Raises:
        ValueError: The numbers of samples or of dims differ, or there is no channel dim.
    """
    if first.ndim != second.ndim or first.ndim < 2 or len(first) != len(second):
        raise UserError(
            "features must have the same number of samples and of dims, (N, C, *), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    return pooled_to_fit(at_least_float32(first), second), pooled_to_fit(at_least_float32(second), first)


def pooled_to_fit(features: Tensor, other: Tensor) -> Tensor:
    """A map ``(N, C, *)``, average-pooled along each spatial dim that is smaller in the other map, ``(N, D, *)``."""
    size = tuple(map(min, features.shape[2:], other.shape[2:]))
    if features.shape[2:] == size:
        return features
    if len(size) not in POOLS:
        raise UserError(f"maps of different sizes can have up to 3 spatial dims, got {tuple(features.shape)}")
    return POOLS[len(size)](features, size)


def check_positions(features: Tensor) -> None:
    """Raises a ValueError if features are vectors: a loss that compares positions would always be 0."""
    if features.ndim < 3:
        raise UserError(f"features must be maps (N, C, *) with positions, got {tuple(features.shape)}")
