"""Random changes that all modalities and the labels of a sample go through together, and where they are drawn."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.reading.frame import IGNORED, Floats
from datamodules.serving.transforms import Geometry
from distill.errors import UserError

# read at import, which else asks the network for a newer version
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

GREY = (124, 116, 104)
"""ImageNet's mean colour: what an image is filled with beyond its borders."""


class PairedAugmentation:
    """One random flip, rotation, zoom and crop for the image, the labels and all maps; new colours for the image.

    All but the image take the value of the nearest pixel: between two depths or two labels there is no third that
    anybody measured. Flip, rotation about the optical axis, zoom and crop change where a point of the scene is seen,
    but not where it is: depth, relative disparity, normals and HHA, computed from the frame as it was measured, stay
    what they are and only move with their pixels (a flip mirrors the scene, so it also changes the sign of the normals'
    x, and a rotation turns them with it; the points of a lidar scan likewise, about the sensor). Differences between
    the repeated pixels of an enlarged depth map would give no normals.

    A zoom is what another focal length would show. A network that estimates depth from how large things look cannot
    know of it: with a target of metres, ``scale=(1, 1)`` keeps the camera, and ``crop`` varies what is seen.

    What comes to lie outside the frame, where ``scale`` falls below 1 or the frame is turned, is grey in the image,
    ignored in the labels, not measured in the geometry and without ground truth or response in metres.

    Args:
        flip: The probability of a horizontal flip.
        scale: The smallest and the largest zoom; a window of the frame's size is cut out at random.
        brightness: A factor from ``1 - brightness`` to ``1 + brightness`` for the colours.
        contrast: The same for their distance from the mean grey.
        saturation: The same for their distance from grey.
        hue: A turn of the colour circle by up to this part of it, at most 0.5.
        rotation: The largest angle in degrees, to either side, about the frame's centre.
        crop: ``(H, W)`` of a window that is then cut out at random; ``None`` keeps the frame's size.

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
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, value in {"flip": flip, **strengths}.items():
            limit = 0.5 if name == "hue" else 1
            if not 0 <= value <= limit:
                raise UserError(f"{name} must be from 0 to {limit}, got {value}")
        low, high = scale
        if not 0 < low <= high < float("inf"):
            raise UserError(f"scale must be two zooms above 0, the smaller one first, got {low} and {high}")
        if not 0 <= rotation <= 180:
            raise UserError(f"rotation must be from 0 to 180 degrees, got {rotation}")
        if crop is not None and min(crop) < 1:
            raise UserError(f"crop must be a height and a width of at least 1, got {crop[0]} and {crop[1]}")
        self.crop = None if crop is None else (crop[0], crop[1])
        self._flip = A.HorizontalFlip(p=flip)
        self._warp = _RotateAndZoom((low, high), rotation)
        colour = A.ColorJitter(**strengths, p=1)
        window = [] if crop is None else [A.RandomCrop(*crop)]
        self._all = A.Compose(
            [colour, self._flip, self._warp, *window],
            additional_targets=dict.fromkeys((*get_args(Geometry), "lidar", "teacher_prediction", "target"), "mask"),
        )

    def __call__(
        self,
        image: NDArray[np.uint8],
        target: NDArray[np.uint8],
        maps: Mapping[str, Floats],
        seed: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, Floats]]:
        """Changes a sample in the way that ``seed`` stands for; what comes back has its size, or that of ``crop``.

        Args:
            image: RGB, ``(H, W, 3)``.
            target: Class indices, ``(H, W)``, 255 where ignored.
            maps: Geometry, ``lidar``, ``teacher_prediction`` and, if it is of depth, ``target`` by name, ``(H, W)`` or
                ``(H, W, C)`` each, 0 where there is nothing.
            seed: The same one gives the same result.

        Raises:
            ValueError: The sample is smaller than ``crop``.
        """
        height, width = image.shape[:2]
        if self.crop is not None and (self.crop[0] > height or self.crop[1] > width):
            raise UserError(f"a crop of {self.crop[0]} x {self.crop[1]} does not fit into {height} x {width} pixels")
        self._all.set_random_seed(seed)
        # masks are filled with 0, which is the ignored label counted from above
        changed = self._all(image=image, mask=IGNORED - target, **maps)
        moved = {name: changed[name] for name in maps}
        if "normal" in moved:
            moved["normal"] = self._turned(moved["normal"])
        if "lidar" in moved:
            moved["lidar"] = self._turned_points(moved["lidar"])
        return changed["image"], IGNORED - changed["mask"], moved

    def _turned(self, normals: Floats) -> Floats:
        """Normals whose pixels have moved, as the flip and the rotation of this sample change them."""
        if self._flip.get_applied_params():
            normals = normals * np.array([-1, 1, 1], dtype=np.float32)
        if self._warp.rotation:
            turn = np.eye(3, dtype=np.float32)
            turn[:2, :2] = _rotation(self._warp.get_applied_params()["angle"])
            normals = normals @ turn.T
        return normals

    def _turned_points(self, points: Floats) -> Floats:
        """Range, x, y, z and intensity of points whose pixels have moved; a lidar's y and z are left and up."""
        seen = np.stack([-points[..., 2], -points[..., 3], points[..., 1]], axis=-1)
        right, down, _ = np.moveaxis(self._turned(seen), -1, 0)
        return np.stack([points[..., 0], points[..., 1], -right, -down, points[..., 4]], axis=-1)


class _RotateAndZoom(A.DualTransform):
    """Turns and enlarges at random and cuts out a window of the old size, or puts a shrunk frame into one."""

    def __init__(self, scale: tuple[float, float], rotation: float) -> None:
        super().__init__(p=1)
        self.scale = scale
        self.rotation = rotation

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        scale = self.py_random.uniform(*self.scale)
        left, top = (self.py_random.random() * extent * (1 - scale) for extent in (width, height))
        angle = math.radians(self.py_random.uniform(-self.rotation, self.rotation))
        # the upper left pixel covers 0 to 1 and its centre, 0.5, is the origin of OpenCV's coordinates
        centre = np.array([width - 1, height - 1]) / 2
        shift = np.array([left, top]) + (scale - 1) / 2
        turn = _rotation(angle)
        matrix = scale * np.column_stack([turn, centre - turn @ centre])
        matrix[:, 2] += shift
        return {"matrix": matrix, "angle": angle}

    def apply(self, img: NDArray[Any], matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warped(img, matrix, cv2.INTER_LINEAR, GREY)

    def apply_to_mask(self, mask: NDArray[Any], matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warped(mask, matrix, cv2.INTER_NEAREST, (0, 0, 0))


def _rotation(angle: float) -> NDArray[np.float64]:
    """The matrix that turns image coordinates, x right and y down, clockwise by an angle in radians."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _warped(
    pixels: NDArray[Any], matrix: NDArray[np.float64], interpolation: int, fill: tuple[int, int, int]
) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    if pixels.ndim == 3 and pixels.shape[2] > len(fill):
        # with more than four channels, OpenCV rounds other coordinates to other pixels, and labels would not follow
        return np.dstack([_warped(channel, matrix, interpolation, fill) for channel in np.moveaxis(pixels, 2, 0)])
    return cv2.warpAffine(pixels, matrix, (width, height), flags=interpolation, borderValue=fill)
