"""Lidar scans in KITTI's format, and their projection into a camera's image."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.arrays import Floats
from datamodules.reading.frame import IGNORED
from datamodules.reading.image_files import UnreadableError

FEATURES = ("range", "x", "y", "z", "intensity")

# the features over all scans of SemanticKITTI: RangeNet++ (Milioto et al., IROS 2019), also in PMF's released code
FEATURE_MEANS = (12.12, 10.88, 0.23, -1.04, 0.21)
FEATURE_STDS = (12.32, 11.47, 6.91, 0.86, 0.16)


class ScanView(NamedTuple):
    """The points of a scan that a camera sees, at most one in each pixel.

    ``lidar``: range in metres, x, y, z in metres (forward, left, up from the lidar) and the intensity of the echo from
    0 to 1, ``(H, W, 5)``; ``depth``: metres along the camera's optical axis, ``(H, W)``; both are 0 where there is no
    point. ``target``: the points' classes, ``(H, W)``, 255 where there is no point.
    """

    lidar: Floats
    depth: Floats
    target: NDArray[np.uint8]


def read_scan(path: Path) -> Floats:
    """Reads a ``.bin`` file of little-endian floats, ``(N, 4)``: x, y, z in metres and intensity.

    Raises:
        ValueError: The file has a wrong length, or holds a number that is not finite.
    """
    values = np.fromfile(path, "<f4")
    if not values.size or path.stat().st_size % 16:
        raise UnreadableError(f"{path} has {path.stat().st_size} bytes, but a scan has 16 a point")
    if not np.isfinite(values).all():
        raise UnreadableError(f"{path} holds a point with a coordinate that is not finite")
    return values.astype(np.float32, copy=False).reshape(-1, 4)


def read_semantics(path: Path, points: int) -> NDArray[np.uint16]:
    """Reads the labels ``(N,)`` of a ``.label`` file: the lower 16 bits of each number; the upper 16 number instances.

    Args:
        path: The file.
        points: The number of points of the scan.

    Raises:
        ValueError: The file holds more or fewer labels.
    """
    if path.stat().st_size != 4 * points:
        raise UnreadableError(
            f"{path} has {path.stat().st_size} bytes, but labels of {points} points have {4 * points}"
        )
    return (np.fromfile(path, "<u4") & 0xFFFF).astype(np.uint16)


def view_scan(
    scan: Floats, classes: NDArray[np.uint8], projection: NDArray[np.float64], size: tuple[int, int]
) -> ScanView:
    """Projects a scan into an image; of the points in one pixel, the nearest one is kept.

    Args:
        scan: x, y, z and intensity, ``(N, 4)``.
        classes: The class of each point, ``(N,)``.
        projection: From lidar coordinates in metres to homogeneous pixels, ``(3, 4)``.
        size: ``(H, W)`` of the image; the centre of the upper left pixel is (0, 0).

    Source: the perspective projection of Zhuang et al., PMF, ICCV 2021. Their released code cuts off the fractions of
        pixels instead of rounding, and keeps any of the points in one pixel.
    """
    seen = points_in_view(scan, projection, size)
    # a later assignment replaces an earlier one, so the nearest points come last
    order = np.argsort(-seen.depth, kind="stable")
    visible, pixels = seen.points[order], (seen.rows[order], seen.columns[order])
    points = scan[visible]
    view = ScanView(
        np.zeros((*size, len(FEATURES)), np.float32), np.zeros(size, np.float32), np.full(size, IGNORED, np.uint8)
    )
    view.lidar[pixels] = np.column_stack([np.linalg.norm(points[:, :3], axis=1), points])
    view.depth[pixels] = seen.depth[order]
    view.target[pixels] = classes[visible]
    return view


class PointsInView(NamedTuple):
    """The points of a scan that lie in an image, also those behind a nearer point.

    ``points``: their positions in the scan; ``rows``, ``columns``: their pixels; ``depth``: metres along the camera's
    optical axis; all ``(V,)``.
    """

    points: NDArray[np.intp]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    depth: NDArray[np.float64]


def points_in_view(scan: Floats, projection: NDArray[np.float64], size: tuple[int, int]) -> PointsInView:
    """Projects a scan into an image; arguments as in :func:`view_scan`."""
    height, width = size
    homogeneous = scan[:, :3].astype(np.float64) @ projection[:, :3].T + projection[:, 3]
    ahead = np.flatnonzero(homogeneous[:, 2] > 0)
    columns, rows = np.rint(homogeneous[ahead, :2] / homogeneous[ahead, 2:]).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    points = ahead[inside]
    return PointsInView(points, rows[inside].astype(np.intp), columns[inside].astype(np.intp), homogeneous[points, 2])


def normalised_points(lidar: Floats) -> Floats:
    """Features ``(H, W, 5)`` less :data:`FEATURE_MEANS`, divided by :data:`FEATURE_STDS`; 0 where there is no point."""
    measured = lidar[..., 0] > 0
    normalised = np.zeros_like(lidar)
    normalised[measured] = (lidar[measured] - np.array(FEATURE_MEANS, np.float32)) / np.array(FEATURE_STDS, np.float32)
    return normalised
