"""Random changes of a sample, the same for all its modalities and its labels."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.reading.arrays import Floats, Pixels
from datamodules.reading.frame import IGNORED
from datamodules.serving.geometry import Geometry
from distill.checks import check_at_least, check_share, check_within
from distill.errors import UserError

# albumentations reads this when it is imported; without it, it asks the network for a newer version
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

FILL_COLOUR = (124, 116, 104)
"""ImageNet's mean colour, grey, which fills an image beyond its borders."""


class PairedAugmentation:
    """One random flip, rotation, zoom and crop for the image, the labels and all maps; random colours for the image.

    Labels and maps take the value of the nearest pixel, because a value between two depths or two labels was not
    measured. Flip, rotation about the optical axis, zoom and crop move the pixels, and the scene stays the same. Depth,
    relative disparity, normals and HHA are therefore computed from the measured frame, and then move with their pixels.
    (Normals computed from an enlarged depth map would be wrong, because its pixels are repeated.) Two changes concern
    values, too: a flip changes the sign of the normals' x, and a rotation rotates the normals. Both do the same to the
    points of a lidar scan.

    A zoom has the effect of another focal length, which a network that estimates depth from the size of objects cannot
    know. If the target is in metres, use ``scale=(1, 1)``, which keeps the camera, and ``crop``.

    If ``scale`` falls below 1 or the frame is rotated, some pixels lie outside the frame. They are grey in the image,
    ignored in the labels, not measured in the geometry, and without ground truth or response.

    Args:
        flip: The probability of a horizontal flip.
        scale: The smallest and the largest zoom; a random window of the frame's size is cut out.
        brightness: The colours are multiplied by a factor from ``1 - brightness`` to ``1 + brightness``.
        contrast: The same for the colours' difference from the mean grey.
        saturation: The same for the colours' difference from grey.
        hue: The colour circle is rotated by up to this part of the circle, at most 0.5.
        rotation: The largest angle in degrees, to either side, about the frame's centre.
        crop: ``(H, W)`` of a random window that is cut out last; ``None`` keeps the frame's size.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        flip: float = 0.5,
        scale: tuple[float, float] = (1.0, 1.5),
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        hue: float = 0.03,
        rotation: float = 0.0,
        crop: tuple[int, int] | None = None,
    ) -> None:
        check_share(flip=flip, brightness=brightness, contrast=contrast, saturation=saturation)
        check_within(0, 0.5, hue=hue)
        check_within(0, 180, rotation=rotation)
        low, high = scale
        if not 0 < low <= high < float("inf"):
            raise UserError(f"scale must be two zooms above 0, the smaller one first, got {low} and {high}")
        if crop is not None:
            check_at_least(1, crop_height=crop[0], crop_width=crop[1])
        self.crop = None if crop is None else (crop[0], crop[1])
        self._flip = A.HorizontalFlip(p=flip)
        self._warp = _RotateAndZoom((low, high), rotation)
        colour = A.ColorJitter(brightness, contrast, saturation, hue, p=1)
        window = [] if crop is None else [A.RandomCrop(*crop)]
        self._all = A.Compose(
            [colour, self._flip, self._warp, *window],
            additional_targets=dict.fromkeys((*get_args(Geometry), "lidar", "teacher_prediction", "target"), "mask"),
        )

    def __call__(
        self,
        image: Pixels,
        target: NDArray[np.uint8],
        maps: Mapping[str, Floats],
        seed: int,
    ) -> tuple[Pixels, NDArray[np.uint8], dict[str, Floats]]:
        """The image, the target and the maps after the changes that ``seed`` fixes, in their size or that of ``crop``.

        Args:
            image: RGB on the scale of bytes, ``(H, W, 3)``.
            target: Class indices, ``(H, W)``, 255 where ignored.
            maps: By name, ``(H, W)`` or ``(H, W, C)`` each, 0 where there is no value: geometry, ``lidar``,
                ``teacher_prediction``, and ``target`` if it is of depth.
            seed: Fixes all random changes.

        Raises:
            ValueError: The sample is smaller than ``crop``.
        """
        self.check_crop(*image.shape[:2])
        self._all.set_random_seed(seed)
        # albumentations takes bytes, or floats from 0 to 1
        white = 1 if image.dtype == np.uint8 else 255
        # albumentations fills masks with 0, so the ignored label must become 0
        changed = self._all(image=image if white == 1 else image / np.float32(white), mask=IGNORED - target, **maps)
        moved = {name: changed[name] for name in maps}
        if "normal" in moved:
            moved["normal"] = self._rotated(moved["normal"])
        if "lidar" in moved:
            moved["lidar"] = self._rotated_points(moved["lidar"])
        return changed["image"] * image.dtype.type(white), IGNORED - changed["mask"], moved

    def check_crop(self, height: int, width: int) -> None:
        """Raises a ValueError if ``crop`` does not fit into a frame of this size."""
        if self.crop is not None and (self.crop[0] > height or self.crop[1] > width):
            raise UserError(f"a crop of {self.crop[0]} x {self.crop[1]} does not fit into {height} x {width} pixels")

    def _rotated(self, normals: Floats) -> Floats:
        """Normals after the flip and the rotation of this sample; their pixels have moved already."""
        if self._flip.get_applied_params():
            normals = normals * np.array([-1, 1, 1], dtype=np.float32)
        if self._warp.rotation:
            matrix = np.eye(3, dtype=np.float32)
            matrix[:2, :2] = _rotation(self._warp.get_applied_params()["angle"])
            normals = normals @ matrix.T
        return normals

    def _rotated_points(self, points: Floats) -> Floats:
        """Range, x, y, z and intensity of points; their pixels have moved already. y is left and z is up."""
        in_camera_axes = np.stack([-points[..., 2], -points[..., 3], points[..., 1]], axis=-1)
        right, down, _ = np.moveaxis(self._rotated(in_camera_axes), -1, 0)
        return np.stack([points[..., 0], points[..., 1], -right, -down, points[..., 4]], axis=-1)


class _RotateAndZoom(A.DualTransform):
    """Rotates and scales at random, and keeps the frame's size: it cuts out a window, or fills the borders."""

    def __init__(self, scale: tuple[float, float], rotation: float) -> None:
        super().__init__(p=1)
        self.scale = scale
        self.rotation = rotation

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        scale = self.py_random.uniform(*self.scale)
        left, top = (self.py_random.random() * extent * (1 - scale) for extent in (width, height))
        angle = math.radians(self.py_random.uniform(-self.rotation, self.rotation))
        # OpenCV's coordinates count from the centre of the upper left pixel, which covers 0 to 1
        centre = np.array([width - 1, height - 1]) / 2
        shift = np.array([left, top]) + (scale - 1) / 2
        rotation = _rotation(angle)
        matrix = scale * np.column_stack([rotation, centre - rotation @ centre])
        matrix[:, 2] += shift
        return {"matrix": matrix, "angle": angle}

    def apply(self, img: NDArray[Any], matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        white = 255 if img.dtype == np.uint8 else 1
        red, green, blue = (value * white / 255 for value in FILL_COLOUR)
        return _warped(img, matrix, cv2.INTER_LINEAR, (red, green, blue))

    def apply_to_mask(self, mask: NDArray[Any], matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warped(mask, matrix, cv2.INTER_NEAREST, (0, 0, 0))


def _rotation(angle: float) -> NDArray[np.float64]:
    """The matrix that rotates image coordinates, x right and y down, clockwise by an angle in radians."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _warped(
    pixels: NDArray[Any], matrix: NDArray[np.float64], interpolation: int, fill: tuple[float, float, float]
) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    if pixels.ndim == 3 and pixels.shape[2] > len(fill):
        # with more than four channels, OpenCV rounds coordinates in another way, and labels and maps would not match
        return np.dstack([_warped(channel, matrix, interpolation, fill) for channel in np.moveaxis(pixels, 2, 0)])
    return cv2.warpAffine(pixels, matrix, (width, height), flags=interpolation, borderValue=fill)
