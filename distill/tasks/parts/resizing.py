"""Brings maps to another size, in up to three spatial dims."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""The names of torch for linear interpolation, by the number of spatial dims."""


def is_smaller(size: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a size differs from the target's and no dim is larger."""
    return tuple(size) != tuple(target) and all(dim <= of_target for dim, of_target in zip(size, target, strict=True))


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values ``(N, C, *)`` in another spatial size.

    A dim that is larger than the new one is averaged down (by area), one that is smaller is interpolated linearly, with
    half-pixel centres. Values that have the size already are returned unchanged.

    Raises:
        ValueError: The sizes differ, and there are more than 3 spatial dims or another number of them.
    """
    size = tuple(size)
    if values.shape[2:] == size:
        return values
    if len(size) not in LINEAR or values.ndim != len(size) + 2:
        raise UserError(
            f"maps of shape {tuple(values.shape)} cannot be resized to {size}: only 1 to 3 spatial dims can, to as many"
        )
    smallest = tuple(map(min, values.shape[2:], size))
    if values.shape[2:] != smallest:
        values = F.interpolate(values, smallest, mode="area")
    return values if smallest == size else F.interpolate(values, size, mode=LINEAR[len(size)], align_corners=False)
