"""Frames as batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.augmentation import PairedAugmentation
from datamodules.reading.arrays import Floats, Pixels
from datamodules.reading.frame import IGNORED, Frame, Frames
from datamodules.reading.lidar import normalised_points
from datamodules.reading.responses import StoredResponses
from datamodules.serving.datasets import collate
from datamodules.serving.geometry import Geometry, depth_to_hha, depth_to_normals, relative_disparity
from datamodules.serving.sampling import SeededIndex, position_of
from distill.errors import UserError
from distill.outputs import Batch

Target = Literal["classes", "depth"]
Scalar = TypeVar("Scalar", bound=np.uint8 | np.float32)

# ImageNet's RGB values from 0 to 1, with which timm's pretrained encoders were trained
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Extent(NamedTuple):
    """``size``: ``(H, W)`` of a frame; ``corner`` and ``shown``: top and left, and ``(H, W)``, of its part in a batch.

    A batch may show that part in another size.
    """

    size: tuple[int, int]
    corner: tuple[int, int]
    shown: tuple[int, int]


class FramePairs(Dataset[Batch]):
    """Frames as tensors: the modalities of :class:`~datamodules.frames.FrameDataModule`, ``target`` and ``index``.

    A plain position gives the frame without augmentation, a :class:`~datamodules.serving.sampling.SeededIndex` gives it
    with the augmentation of its seed.

    Geometry is computed from the measured depth, in its own resolution and with its own camera. Geometry, target and
    stored responses are then resized by taking the nearest pixel, because a value between both sides of an edge or a
    hole does not exist in the scene. Resized depth cannot give normals: it repeats or drops measured pixels.

    Args:
        frames: The frames on disk.
        num_classes: The number of classes; ``None`` makes the depth the target.
        geometry: The modalities to compute from the depth.
        size: ``(H, W)`` to resize to; ``None`` keeps the frames' sizes.
        max_depth: The depth in metres that becomes 1.
        augmentation: Applied to samples with a seed.
        crop: ``(H, W)`` of the lowest rows and middle columns, which are cut out of every frame first; ``None`` keeps
            whole frames.
        responses: Holds ``teacher_prediction`` of each frame by its name; ``None`` gives none.
    """

    def __init__(
        self,
        frames: Frames,
        num_classes: int | None,
        geometry: Sequence[Geometry] = ("depth",),
        size: tuple[int, int] | None = None,
        max_depth: float = 80.0,
        augmentation: PairedAugmentation | None = None,
        crop: tuple[int, int] | None = None,
        responses: StoredResponses | None = None,
    ) -> None:
        self.frames = frames
        self.num_classes = num_classes
        self.geometry = tuple(geometry)
        self.size = size
        self.max_depth = max_depth
        self.augmentation = augmentation
        self.crop = crop
        self.responses = responses

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def names(self) -> Sequence[str]:
        """The frames' names by position; empty where the frames have no names."""
        return getattr(self.frames, "names", ())

    @cached_property
    def sizes(self) -> Sequence[tuple[int, int] | None]:
        """Height and width of each frame before it is read; ``None`` or nothing where that is unknown."""
        sizes: Sequence[tuple[int, int] | None] = getattr(self.frames, "sizes", ())
        return sizes

    def extent(self, position: int) -> Extent:
        """The size of a frame, and the part of it that an unaugmented sample shows."""
        size = (self.sizes[position] if len(self.sizes) else None) or self.frames[position].image.shape[:2]
        height, width = size
        if self.crop is None:
            return Extent((height, width), (0, 0), (height, width))
        return Extent((height, width), _corner(size, self.crop), self.crop)

    def check_responses(self, *, required: bool) -> None:
        """Checks that every frame has a response; unless ``required``, it is also right that no frame has one.

        Raises:
            FileNotFoundError: A response is missing.
            ValueError: The frames have no names.
        """
        if self.responses is None:
            return
        if not self.names:
            raise UserError(f"{self.responses.folder} cannot be used: the frames have no names to find responses by")
        if required or self.responses.holds_any(self.names):
            self.responses.check(self.names)
        else:
            self.responses = None

    def check_crops(self) -> None:
        """Checks that the crops fit into all frames whose size is known before they are read.

        Raises:
            ValueError: Names the first frame that is too small.
        """
        random_crop = None if self.augmentation is None else self.augmentation.crop
        if self.crop is None and random_crop is None:
            return
        for position, size in enumerate(self.sizes):
            if size is None:
                continue
            self._check_crop(size, position)
            if self.augmentation is not None:
                try:
                    self.augmentation.check_crop(*(self.size or self.crop or size))
                except UserError as error:
                    raise UserError(f"{self._described(position)} is too small: {error}") from None

    def __getitem__(self, index: int | SeededIndex) -> Batch:
        """One sample.

        Raises:
            ValueError: The frame's image, depth and target differ in size, or a label is not one of the classes. Its
                response is damaged or has another size.
        """
        position = position_of(index)
        frame = self.frames[position]
        self._check(frame, position)
        full = frame.image.shape[:2]
        if self.crop is not None:
            frame = _cropped(frame, self.crop)
        image, labels = frame.image, frame.target
        maps: dict[str, Floats] = {name: self._geometry(name, frame) for name in self.geometry}
        if frame.lidar is not None:
            maps["lidar"] = frame.lidar
        if self.responses is not None:
            maps["teacher_prediction"] = self._response(self.responses, position, full, image.shape[:2])
        if self.num_classes is None:
            maps["target"] = frame.depth.copy()  # a cached frame's is read-only
        if self.size is not None:
            image = _resized(image, self.size)
            labels = _resized_nearest(labels, self.size)
            maps = {name: _resized_nearest(values, self.size) for name, values in maps.items()}
        if isinstance(index, SeededIndex) and self.augmentation is not None:
            image, labels, maps = self.augmentation(image, labels, maps, index.seed)
        if "lidar" in maps:
            maps["lidar"] = normalised_points(maps["lidar"])
        maps = {"image": _normalised(image), **maps}
        sample = {name: torch.from_numpy(_channels_first(values)) for name, values in maps.items()}
        if self.num_classes is not None:
            sample["target"] = torch.from_numpy(labels.astype(np.int64))
        return {**sample, "index": torch.tensor(position)}

    def __getitems__(self, indices: Sequence[int | SeededIndex]) -> Batch:
        """A batch.

        Raises:
            ValueError: The samples differ in size.
        """
        samples = [self[index] for index in indices]
        first = samples[0]
        for other in samples:
            if other["image"].shape != first["image"].shape:
                raise UserError(
                    f"frame {first['index']} has {_extent(first['image'].shape[1:])} pixels, but frame "
                    f"{other['index']} of the same batch {_extent(other['image'].shape[1:])}: give the size to resize "
                    "all frames to"
                )
        return {name: _channels_last(values) for name, values in collate(samples).items()}

    def _check(self, frame: Frame, position: int) -> None:
        shapes = [values.shape[:2] for values in (frame.image, frame.depth, frame.target)]
        if len(set(shapes)) > 1:
            image, depth, target = map(_extent, shapes)
            raise UserError(
                f"{self._described(position)} has an image of {image}, a depth of {depth} and a target of {target} "
                "pixels, which must have one size"
            )
        self._check_crop(frame.image.shape[:2], position)
        if self.num_classes is None:
            return
        strange = (frame.target >= self.num_classes) & (frame.target != IGNORED)
        if strange.any():
            raise UserError(
                f"{self._described(position)} has the label {frame.target[strange][0]}, but labels are 0 to "
                f"{self.num_classes - 1}, or {IGNORED} where ignored"
            )

    def _check_crop(self, size: Sequence[int], position: int) -> None:
        if self.crop is not None and (self.crop[0] > size[0] or self.crop[1] > size[1]):
            raise UserError(
                f"{self._described(position)} has {_extent(size)} pixels, too few for a crop of {_extent(self.crop)}"
            )

    def _described(self, position: int) -> str:
        return f"frame {position}" + (f" ({self.names[position]})" if self.names else "")

    def _response(
        self, responses: StoredResponses, position: int, full: tuple[int, int], cropped: tuple[int, int]
    ) -> Floats:
        """The stored response; one in the size of the whole frame is cropped like the frame."""
        sizes = [full, cropped] if self.size is None else [full, cropped, self.size]
        depth = responses.read(self.names[position], sizes)
        return _bottom(depth, cropped) if depth.shape == full else depth

    def _geometry(self, name: Geometry, frame: Frame) -> Floats:
        if name == "depth":
            share: Floats = np.clip(frame.depth / np.float32(self.max_depth), 0, 1)
            return share
        if name == "disparity":
            return relative_disparity(frame.depth)
        if name == "normal":
            return depth_to_normals(frame.depth, frame.camera)
        return depth_to_hha(frame.depth, frame.camera)


def _bottom(values: NDArray[Scalar], size: tuple[int, int]) -> NDArray[Scalar]:
    """The lowest rows and the middle columns."""
    top, left = _corner(values.shape, size)
    return values[top:, left : left + size[1]]


def _corner(shape: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    return shape[0] - size[0], (shape[1] - size[1]) // 2


def _cropped(frame: Frame, size: tuple[int, int]) -> Frame:
    top, left = _corner(frame.image.shape, size)
    return Frame(
        _bottom(frame.image, size),
        _bottom(frame.depth, size),
        _bottom(frame.target, size),
        frame.camera._replace(cx=frame.camera.cx - left, cy=frame.camera.cy - top),
        None if frame.lidar is None else _bottom(frame.lidar, size),
    )


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    """The image in another size: averaged over areas where it shrinks, interpolated bilinearly where it grows."""
    if image.shape[:2] == size:
        return image
    height, width = size
    # if one side shrinks and the other grows, a single step would shift the pixels
    least = min(width, image.shape[1]), min(height, image.shape[0])
    resized = cv2.resize(cv2.resize(image, least, interpolation=cv2.INTER_AREA), (width, height))
    return cast(Pixels, resized)


def _resized_nearest(values: NDArray[Scalar], size: tuple[int, int]) -> NDArray[Scalar]:
    if values.shape[:2] == size:
        return values
    height, width = size
    # INTER_NEAREST rounds down, which shifts the map by half a pixel
    return cast(NDArray[Scalar], cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _normalised(image: Pixels) -> Floats:
    mean, std = (np.float32(255) * np.array(values, dtype=np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalised: Floats = (image - mean) / std
    return normalised


def _channels_first(values: Floats) -> Floats:
    """``(H, W)`` or ``(H, W, C)`` as ``(C, H, W)``."""
    return np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def _channels_last(batch: torch.Tensor) -> torch.Tensor:
    """Maps with their channels innermost, on which convolutions are faster."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def _extent(shape: Sequence[int]) -> str:
    height, width = shape
    return f"{height} x {width}"
