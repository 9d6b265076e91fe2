"""A frame: image, depth, classes and camera."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.arrays import Pixels

IGNORED = 255
"""The target of pixels and points that losses and scores ignore."""


class Camera(NamedTuple):
    """A pinhole camera. x points right, y down, z forward; the centre of the upper left pixel is (0, 0).

    ``fx``, ``fy``: focal lengths in pixels; ``cx``, ``cy``: principal point in pixels; ``baseline``: distance to the
    second camera of a stereo pair in metres; ``height``: above the ground in metres; ``pitch``: the angle by which the
    camera looks down, in radians.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    baseline: float
    height: float
    pitch: float = 0.0


class Frame(NamedTuple):
    """One sample, in the size that it has on disk.

    ``image``: RGB on the scale of bytes, ``(H, W, 3)``, ``float32`` if it has more than 8 bits; ``depth``: metres along
    the optical axis, ``(H, W)`` ``float32``, 0 where nothing was measured; ``target``: class indices, ``(H, W)``
    ``uint8``, 255 where ignored, which is everywhere in a data set without classes; ``lidar``: the points of a scan
    that the camera sees, ``(H, W, 5)`` ``float32``, as in :mod:`datamodules.reading.lidar`, ``None`` in a data set
    without scans.
    """

    image: Pixels
    depth: NDArray[np.float32]
    target: NDArray[np.uint8]
    camera: Camera
    lidar: NDArray[np.float32] | None = None


class Frames(Protocol):
    """A split: frames by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...
