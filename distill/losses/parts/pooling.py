"""Brings features of different sizes and kinds to the same positions."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32

POOLS: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def to_common_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Brings two features to the same positions.

    - Two maps with as many spatial dims are average-pooled to the smaller of their sizes along each dim.
    - Of a map with 3 spatial dims (time or depth, height, width) and one with 2 (height, width), the first is averaged
      over time or depth before.
    - In all other pairs of kinds, such as a vector and a map, or a sequence and an image, no position of one feature
      belongs to a position of the other: both are averaged over their positions.

    Args:
        first: ``(N, C, *)`` with up to three spatial dims, or none.
        second: ``(N, D, *)`` with the same N.

    Returns:
        Both features with equal spatial sizes; float32, or float64 if they are float64. A feature that has the size
        already is not copied.

    Raises:
        ValueError: The numbers of samples differ, there is no channel dim, or maps of different sizes have more than
            three spatial dims.
    """
    if min(first.ndim, second.ndim) < 2 or len(first) != len(second):
        raise UserError(
            "features must have the same number of samples, (N, C, *), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    return pooled_to_fit(at_least_float32(first), second), pooled_to_fit(at_least_float32(second), first)


def pooled_to_fit(features: Tensor, other: Tensor) -> Tensor:
    """The first of two features as :func:`to_common_size` brings it to the positions that it shares with the second.

    Args:
        features: ``(N, C, *)``.
        other: ``(N, D, *)``.
    """
    size, features = common_size(features, other), with_dims_of(features, other)
    if features.shape[2:] == size:
        return features
    if len(size) not in POOLS:
        raise UserError(f"maps of different sizes can have up to 3 spatial dims, got {tuple(features.shape)}")
    return POOLS[len(size)](features, size)


def with_dims_of(features: Tensor, other: Tensor) -> Tensor:
    """The first of two features, averaged over the dims whose positions do not correspond to any in the second.

    Args:
        features: ``(N, C, *)``.
        other: ``(N, D, *)``.

    Returns:
        The feature itself if both have as many dims; without its first spatial dim if it has three and the other two;
        as it is if it has two and the other three; else ``(N, C)``.
    """
    dims = features.ndim, other.ndim
    if dims[0] == dims[1] or dims == (4, 5):
        return features
    return features.mean(2) if dims == (5, 4) else as_vector(features)


def common_size(first: Tensor, second: Tensor) -> tuple[int, ...]:
    """The sizes of the positions that two features share, see :func:`to_common_size`; empty if they share none."""
    kinds = {first.ndim, second.ndim}
    if len(kinds) > 1 and kinds != {4, 5}:
        return ()
    dims = min(kinds) - 2
    return tuple(map(min, first.shape[first.ndim - dims :], second.shape[second.ndim - dims :]))


def as_vector(features: Tensor) -> Tensor:
    """The mean of a map ``(N, C, *)`` over its positions, ``(N, C)``; vectors are returned as they are."""
    return features if features.ndim == 2 else features.flatten(2).mean(2)


def check_shared_dims(first: Tensor, second: Tensor) -> None:
    """Raises a ValueError unless two features are maps whose positions correspond."""
    shapes = f"features must be maps (N, C, *) with positions, got {tuple(first.shape)} and {tuple(second.shape)}"
    if min(first.ndim, second.ndim) < 3:
        raise UserError(f"{shapes}: a vector has none, so name a layer before its pooling")
    if not common_size(first, second):
        raise UserError(
            f"{shapes}: only maps with as many spatial dims, or with 3 (time or depth, height, width) and 2 (height, "
            "width), have positions in common"
        )


def check_positions(first: Tensor, second: Tensor) -> None:
    """Raises a ValueError unless two features are maps that share more than one position.

    A loss that compares positions would be constant if there were only one.
    """
    check_shared_dims(first, second)
    size = common_size(first, second)
    if max(size) == 1:
        raise UserError(
            f"features must be maps (N, C, *) with positions, got {tuple(first.shape)} and {tuple(second.shape)}: "
            "they share one position only, so name earlier layers"
        )
