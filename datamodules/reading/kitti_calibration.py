"""Calibration files of KITTI's benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.frame import Camera
from distill.errors import UserError

# the drives of 26 September 2011, which most images come from; the height is that of the sensor setup
KITTI_CAMERA = Camera(fx=721.5377, fy=721.5377, cx=609.5593, cy=172.854, baseline=0.532725, height=1.65)


def read_matrices(path: Path, names: Sequence[str]) -> list[NDArray[np.float64]]:
    """Reads matrices ``(3, 4)`` from lines like ``P2: 7.215377e+02 0.000000e+00 ...``.

    Args:
        path: The file.
        names: The words before the colons.

    Raises:
        ValueError: A line is missing or does not hold 12 numbers.
    """
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return [np.array(lines[name].split(), float).reshape(3, 4) for name in names]
    except (KeyError, ValueError):
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        raise UserError(f"{path} should hold the lines {listed} with 12 numbers each") from None


def stereo_camera(left: NDArray[np.float64], right: NDArray[np.float64]) -> Camera:
    """The left camera of a rectified pair, from the projections ``(3, 4)`` of both."""
    # the fourth entry is -fx times the camera's position on the common x axis
    baseline = (left[0, 3] - right[0, 3]) / left[0, 0]
    fx, fy, cx, cy = map(float, (left[0, 0], left[1, 1], left[0, 2], left[1, 2]))
    return Camera(fx, fy, cx, cy, float(baseline), KITTI_CAMERA.height)
