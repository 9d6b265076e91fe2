"""Random changes that all modalities and the labels of a sample go through together, and where they are drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from datamodules.transforms import Floats, Geometry

# read at import, which else asks the network for a newer version
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

IGNORED = 255
GREY = (124, 116, 104)
"""ImageNet's mean colour: what an image is filled with beyond its borders."""


class Draw(NamedTuple):
    """A sample's position in its data set, and the seed of all that is random about it this time."""

    position: int
    seed: int


class DrawSampler(Sampler[Draw]):
    """All samples in random order, each with a seed for its augmentation.

    Both are drawn here, in the main process, so neither depends on the number of workers. Lightning numbers the epochs
    through :meth:`set_epoch`; order and seeds are then a function of ``seed_everything``'s seed (0 where it was not
    called, as in Lightning's own distributed sampler) and that number. So processes that share an epoch agree on what
    they share, whatever became of their random states, and a resumed run sees what one never stopped would. Before
    any number was given, as in a plain loop over a loader, they follow torch's global random state.

    Args:
        length: How many samples there are.
        epoch: The number of the first epoch, where it is known; workers fetch ahead of ``set_epoch``.
    """

    def __init__(self, length: int, epoch: int | None = None) -> None:
        self.length = length
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Fixes what the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        if self.epoch is None:
            entropy = [int(torch.randint(2**63 - 1, ()))]
        else:
            entropy = [int(os.environ.get("PL_GLOBAL_SEED", 0)), self.epoch]
        rng = np.random.default_rng(entropy)
        order = rng.permutation(self.length)
        seeds = rng.integers(2**32, size=self.length)
        return map(Draw, order.tolist(), seeds.tolist())


class PairedAugmentation:
    """One random flip, zoom and crop for the image, the labels and all geometry; a change of colour for the image.

    Labels and geometry take the value of the nearest pixel: between two depths or two labels there is no third that
    anybody measured. Flip, zoom and crop change where a point of the scene is seen, but not where it is: depth,
    relative disparity, normals and HHA, computed from the frame as it was measured, stay what they are and only move
    with their pixels (a flip mirrors the scene, so it also changes the sign of the normals' x). Differences between
    the repeated pixels of an enlarged depth map would give no normals.

    What comes to lie outside the frame where ``scale`` falls below 1 is grey in the image, ignored in the labels and
    not measured in the geometry.

    Args:
        flip: The probability of a horizontal flip.
        scale: The smallest and the largest zoom; a window of the frame's size is cut out at random.
        brightness: A factor from ``1 - brightness`` to ``1 + brightness`` for the colours.
        contrast: The same for their distance from the mean grey.
        saturation: The same for their distance from grey.
        hue: A turn of the colour circle by up to this part of it, at most 0.5.

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
    ) -> None:
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, value in {"flip": flip, **strengths}.items():
            limit = 0.5 if name == "hue" else 1
            if not 0 <= value <= limit:
                raise ValueError(f"{name} must be from 0 to {limit}, got {value}")
        low, high = scale
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"scale must be two zooms above 0, the smaller one first, got {low} and {high}")
        self._flip = A.HorizontalFlip(p=flip)
        colour = A.ColorJitter(**strengths, p=1)
        self._all = A.Compose(
            [colour, self._flip, _ZoomAndCrop((low, high))],
            additional_targets=dict.fromkeys(get_args(Geometry), "mask"),
        )

    def __call__(
        self,
        image: NDArray[np.uint8],
        target: NDArray[np.uint8],
        geometry: Mapping[str, Floats],
        seed: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, Floats]]:
        """Changes a sample in the way that ``seed`` stands for; what comes back has the size of what was given.

        Args:
            image: RGB, ``(H, W, 3)``.
            target: Class indices, ``(H, W)``, 255 where ignored.
            geometry: Maps by name, ``(H, W)`` or ``(H, W, 3)`` each, 0 where nothing was measured.
            seed: The same one gives the same result.
        """
        self._all.set_random_seed(seed)
        # masks are filled with 0, which is the ignored label counted from above
        changed = self._all(image=image, mask=IGNORED - target, **geometry)
        moved = {name: changed[name] for name in geometry}
        if "normal" in moved and self._flip.get_applied_params():
            moved["normal"] = moved["normal"] * np.array([-1, 1, 1], dtype=np.float32)
        return changed["image"], IGNORED - changed["mask"], moved


class _ZoomAndCrop(A.DualTransform):
    """Enlarges by a random factor and cuts out a window of the old size; below 1, puts the frame into such a window."""

    _targets = A.HorizontalFlip._targets

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__(p=1)
        self.scale = scale

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        scale = self.py_random.uniform(*self.scale)
        left, top = (self.py_random.random() * extent * (1 - scale) for extent in (width, height))
        # the upper left pixel covers 0 to 1 and its centre, 0.5, is the origin of OpenCV's coordinates
        centre = (scale - 1) / 2
        return {"matrix": np.array([[scale, 0, left + centre], [0, scale, top + centre]])}

    def apply(self, img: NDArray[Any], matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warped(img, matrix, cv2.INTER_LINEAR, GREY)

    def apply_to_mask(self, mask: NDArray[Any], matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warped(mask, matrix, cv2.INTER_NEAREST, (0, 0, 0))


def _warped(
    pixels: NDArray[Any], matrix: NDArray[np.float64], interpolation: int, fill: tuple[int, int, int]
) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    return cv2.warpAffine(pixels, matrix, (width, height), flags=interpolation, borderValue=fill)
