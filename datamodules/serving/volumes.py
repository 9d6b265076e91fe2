"""Volumes for networks: normalisation within the brain, patches, flips and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.arrays import Floats

IGNORED = 255
"""The target of voxels that were added by padding."""

RANDOM_NUMBERS = 8
"""How many random numbers from 0 to 1 place and flip a patch."""

MIDDLE: Floats = np.full(RANDOM_NUMBERS, 0.5, np.float32)
"""The numbers that place a patch in the middle."""

Size = tuple[int, int, int]


def z_normalized(volume: Floats) -> Floats:
    """The volume with mean 0 and standard deviation 1 over its voxels other than 0; voxels of 0 stay 0.

    Skull-stripped MRI is 0 outside the brain. A volume without another value than 0 stays as it is.
    """
    inside = volume != 0
    normalized = np.zeros_like(volume, dtype=np.float32)
    if inside.any():
        values = volume[inside].astype(np.float64)
        normalized[inside] = (values - values.mean()) / max(float(values.std()), 1e-6)
    return normalized


def patch_start(target: NDArray[np.int64] | None, shape: Size, size: Size, share: float, numbers: Floats) -> Size:
    """Where a random patch begins; 0 along axes that are not longer than the patch.

    Args:
        target: The classes, ``shape``; ``None`` where they are not known.
        shape: Of the volume.
        size: Of the patch.
        share: The probability that the patch is centred on a voxel of a class other than 0, if there is one; the patch
            moves to lie inside the volume.
        numbers: Random numbers from 0 to 1, ``(RANDOM_NUMBERS,)``; the first five are used.
    """
    room = np.maximum(np.array(shape) - size, 0)
    start = (numbers[2:5].astype(np.float64) * (room + 1)).astype(np.int64)
    if target is not None and numbers[0] < share:
        labelled = np.flatnonzero(target)
        if len(labelled):
            voxel = labelled[int(float(numbers[1]) * len(labelled))]
            start = np.clip(np.array(np.unravel_index(voxel, shape)) - np.array(size) // 2, 0, room)
    depth, height, width = map(int, start)
    return depth, height, width


def cut(volume: NDArray[Any], start: Size, size: Size, fill: float) -> NDArray[Any]:
    """The patch of a volume that begins at ``start``; beyond the volume's end it holds ``fill``."""
    part = volume[tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))]
    return np.pad(part, [(0, length - got) for length, got in zip(size, part.shape, strict=True)], constant_values=fill)


def flipped(volume: NDArray[Any], numbers: Floats) -> NDArray[Any]:
    """The volume flipped along each axis whose number, of the last three of ``numbers``, is below one half."""
    axes = tuple(axis for axis in range(3) if numbers[RANDOM_NUMBERS - 3 + axis] < 0.5)
    return np.ascontiguousarray(np.flip(volume, axes))


def padded_size(shape: Size, divisor: int) -> Size:
    """The smallest size that holds a volume and is a multiple of ``divisor`` along each axis."""
    depth, height, width = (-(-length // divisor) * divisor for length in shape)
    return depth, height, width
