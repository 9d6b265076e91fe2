"""Geometry computed from depth: disparity, surface normals and HHA."""

from __future__ import annotations

from typing import Literal

import numpy as np

from datamodules.reading.arrays import Floats
from datamodules.reading.frame import Camera

Geometry = Literal["depth", "disparity", "normal", "hha"]

NEAREST_DEPTH = 2.0
"""Metres; a point at this depth, or nearer, has the relative disparity 1."""

HIGHEST_POINT = 10.0
"""Metres; a point at this height above the ground, or higher, has the height 1 in HHA."""


def depth_to_disparity(depth: Floats, focal_length: float, baseline: float) -> Floats:
    """The disparity of a rectified stereo pair in pixels, ``focal_length * baseline / depth``.

    Args:
        depth: Metres, of any shape; 0 where nothing was measured.
        focal_length: In pixels.
        baseline: Distance between the two cameras in metres.

    Returns:
        Of the shape of ``depth``; 0 where nothing was measured, as at an infinite depth.
    """
    disparity = np.zeros_like(depth, dtype=np.float32)
    return np.divide(focal_length * baseline, depth, out=disparity, where=depth > 0)


def disparity_to_depth(disparity: Floats, focal_length: float, baseline: float) -> Floats:
    """The depth in metres, ``focal_length * baseline / disparity``, the inverse of :func:`depth_to_disparity`.

    Args:
        disparity: Pixels, of any shape; 0 where nothing was measured.
        focal_length: In pixels.
        baseline: Distance between the two cameras in metres.

    Returns:
        Of the shape of ``disparity``; 0 where nothing was measured.
    """
    return depth_to_disparity(disparity, focal_length, baseline)


def relative_disparity(depth: Floats) -> Floats:
    """The disparity relative to that of a point at :data:`NEAREST_DEPTH`, ``NEAREST_DEPTH / depth``, at most 1.

    Focal length and baseline cancel, so resizing an image does not change it.

    Args:
        depth: Metres, of any shape; 0 where nothing was measured.

    Returns:
        From 0 (infinitely far, or nothing measured) to 1, of the shape of ``depth``.
    """
    relative: Floats = np.minimum(depth_to_disparity(depth, 1.0, NEAREST_DEPTH), np.float32(1))
    return relative


def depth_to_normals(depth: Floats, camera: Camera) -> Floats:
    r"""Unit normals of the visible surfaces, facing the camera, in its coordinates (x right, y down, z forward).

    On a plane :math:`n^\top P = d` the inverse depth is affine in the pixel coordinates,
    :math:`d / Z = n_x (u - c_x) / f_x + n_y (v - c_y) / f_y + n_z`, so differences of the inverse depth give the normal
    of any plane exactly. Of the two neighbours in a row or column, the one with the smaller difference is used: beside
    a hole, an occlusion edge or the image's border, it belongs to the same surface. In noisy or coarsely quantised
    depth, this choice makes surfaces too flat: smooth such depth first.

    Args:
        depth: Metres along the optical axis, ``(H, W)``; 0 where nothing was measured.
        camera: The camera that saw it.

    Returns:
        ``(H, W, 3)``; 0 where nothing was measured, or where the row or the column has no measured neighbour.

    Source: inverse depth as in Fan et al., SNE-RoadSeg, ECCV 2020, Sec. 3.1, who estimate n_z by a median instead.
    """
    inverse = depth_to_disparity(depth, 1.0, 1.0)
    x, y = _rays(depth.shape, camera)
    x_slope = np.float32(camera.fx) * _smaller_difference(inverse, axis=1)
    y_slope = np.float32(camera.fy) * _smaller_difference(inverse, axis=0)
    z_slope = inverse - x * x_slope - y * y_slope
    length = np.sqrt(x_slope**2 + y_slope**2 + z_slope**2)
    # the slopes are n / d, and a normal that faces the camera has a negative d
    defined = (inverse > 0) & (length > 0)
    towards_camera = np.divide(-1, length, out=np.zeros_like(length), where=defined)
    normals = np.empty((*depth.shape, 3), dtype=np.float32)
    for axis, slope in enumerate((x_slope, y_slope, z_slope)):
        normals[..., axis] = np.where(defined, slope * towards_camera, 0)
    return normals


def depth_to_hha(depth: Floats, camera: Camera) -> Floats:
    """Horizontal disparity, height above the ground and angle with gravity, each from 0 to 1.

    - Disparity: ``NEAREST_DEPTH / depth``, so 1 is 2 m or nearer and 0 is infinitely far.
    - Height: metres above the ground divided by :data:`HIGHEST_POINT`, so 1 is 10 m or higher; a point below the ground
      has 0.
    - Angle between the surface normal and the direction of gravity, divided by pi: 1 for the ground, 1/2 for a wall,
      0 for a ceiling or where there is no normal.

    The ground and gravity are not estimated; they follow from the camera's height and pitch.

    Args:
        depth: Metres along the optical axis, ``(H, W)``; 0 where nothing was measured.
        camera: The camera that saw it.

    Returns:
        ``(H, W, 3)``; all three 0 where nothing was measured.

    Source: Gupta et al., Learning Rich Features from RGB-D Images, ECCV 2014, Sec. 2.1.
    """
    normals = depth_to_normals(depth, camera)
    gravity = np.array([0, np.cos(camera.pitch), np.sin(camera.pitch)], dtype=np.float32)
    _, y = _rays(depth.shape, camera)
    height = np.float32(camera.height) - depth * (y * gravity[1] + gravity[2])
    angle = np.arccos(np.clip(normals @ gravity, -1, 1)) / np.float32(np.pi)
    angle[~normals.any(axis=-1)] = 0
    hha = np.stack([relative_disparity(depth), np.clip(height / np.float32(HIGHEST_POINT), 0, 1), angle], axis=-1)
    hha[~(depth > 0)] = 0
    return hha


def _rays(shape: tuple[int, ...], camera: Camera) -> tuple[Floats, Floats]:
    """The points of the pixels' rays at a depth of one metre: x ``(W,)`` and y ``(H, 1)``."""
    height, width = shape
    x = (np.arange(width, dtype=np.float32) - np.float32(camera.cx)) / np.float32(camera.fx)
    y = (np.arange(height, dtype=np.float32) - np.float32(camera.cy)) / np.float32(camera.fy)
    return x, y[:, None]


def _smaller_difference(values: Floats, axis: Literal[0, 1]) -> Floats:
    """The smaller of the differences to the next and from the previous value; NaN where both are not measured."""
    first, last = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
    padded = np.pad(values, [(1, 1), (0, 0)] if axis == 0 else [(0, 0), (1, 1)])
    measured = padded > 0
    steps = np.where(measured[first] & measured[last], padded[last] - padded[first], np.float32(np.inf))
    forward, backward = steps[last], steps[first]
    smaller = np.where(np.abs(forward) < np.abs(backward), forward, backward)
    smaller[np.isinf(smaller)] = np.nan
    return smaller
