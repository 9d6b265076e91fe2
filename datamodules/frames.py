"""What every data set of street scenes shares: frames of image, depth and semantics, and batches made of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, cast, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.augmentation import IGNORED, Draw, PairedAugmentation
from datamodules.base import Batch, SplitName, Splits, check_counts, collate
from datamodules.draws import DrawnDataModule
from datamodules.lidar import normalised_points
from datamodules.responses import StoredResponses
from datamodules.transforms import Floats, Geometry, depth_to_hha, depth_to_normals, relative_disparity
from datamodules.unreadable import OnError

Target = Literal["classes", "depth"]
Scalar = TypeVar("Scalar", np.uint8, np.float32)

# of ImageNet's RGB values from 0 to 1: what timm's pretrained encoders were trained with
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Camera(NamedTuple):
    """A pinhole camera; x points right, y down, z forward, and the centre of the upper left pixel is (0, 0).

    ``fx``, ``fy``: focal lengths, ``cx``, ``cy``: principal point, in pixels; ``baseline``: distance to the second
    camera of a stereo pair in metres; ``height`` above the ground in metres; ``pitch``: how far the camera looks down
    in radians.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    baseline: float
    height: float
    pitch: float = 0.0


class Frame(NamedTuple):
    """One sample as it lies on disk.

    ``image``: RGB, ``(H, W, 3)`` ``uint8``; ``depth``: metres along the optical axis, ``(H, W)`` ``float32``, 0 where
    nothing was measured; ``target``: class indices, ``(H, W)`` ``uint8``, 255 where ignored, as is all of it in a data
    set without semantics; ``lidar``: the points of a scan that the camera sees, ``(H, W, 5)`` ``float32``, as in
    :mod:`datamodules.lidar`, ``None`` in a data set without scans.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    target: NDArray[np.uint8]
    camera: Camera
    lidar: NDArray[np.float32] | None = None


class Frames(Protocol):
    """A split: frames by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...


class NamedFrames(Frames, Protocol):
    """A split whose frames have names: their paths in the data set, with slashes and without a suffix.

    Under these, stored responses are found (:class:`~datamodules.responses.StoredResponses`).
    """

    @property
    def names(self) -> Sequence[str]:
        """The frames' names by position."""


class FramePairs(Dataset[Batch]):
    """Frames as tensors: the modalities that :class:`FrameDataModule` lists, ``target`` and ``index``.

    A plain position gives the frame as it is, a :class:`~datamodules.augmentation.Draw` its augmentation by that draw.

    Geometry is computed from the depth as it was measured, in its own resolution and with its own camera, and moved to
    the new size by taking the nearest pixel, as are the target and the stored responses: across a hole or an edge there
    is no value between two others, and the differences that make normals need the measured pixels, of which resizing
    repeats or leaves out some.

    Args:
        frames: What is on disk.
        num_classes: How many classes there are; ``None`` makes the depth the target.
        geometry: The modalities to make of the depth.
        size: ``(H, W)`` to resize to; ``None`` keeps the frames' own.
        max_depth: The depth in metres that becomes 1.
        augmentation: Applied to draws.
        crop: ``(H, W)`` to cut out of every frame, the lowest rows and the columns in the middle, before anything else;
            ``None`` keeps the whole.
        responses: Gives ``teacher_prediction``, for frames that have names; ``None`` gives none.
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
        """The frames' names by position; none of them has one in a data set that names no frames."""
        return getattr(self.frames, "names", ())

    def check_responses(self, *, required: bool) -> None:
        """Sees to it that there is a response to every frame, or, where none is required, to every frame or to none.

        Raises:
            FileNotFoundError: One is missing.
            ValueError: The frames have no names to look for it by.
        """
        if self.responses is None:
            return
        if not self.names:
            raise ValueError(f"{self.responses.folder} cannot be used: the frames have no names to find responses by")
        if required or self.responses.holds_any(self.names):
            self.responses.check(self.names)
        else:
            self.responses = None

    def __getitem__(self, index: int | Draw) -> Batch:
        """One sample.

        Raises:
            ValueError: The frame's image, depth and target differ in size, or a label is not one of the classes; its
                response is damaged or has another size.
        """
        position = index.position if isinstance(index, Draw) else index
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
        if isinstance(index, Draw) and self.augmentation is not None:
            image, labels, maps = self.augmentation(image, labels, maps, index.seed)
        if "lidar" in maps:
            maps["lidar"] = normalised_points(maps["lidar"])
        maps = {"image": _normalised(image), **maps}
        sample = {name: torch.from_numpy(_channels_first(values)) for name, values in maps.items()}
        if self.num_classes is not None:
            sample["target"] = torch.from_numpy(labels.astype(np.int64))
        return {**sample, "index": torch.tensor(position)}

    def __getitems__(self, indices: Sequence[int | Draw]) -> Batch:
        """A batch.

        Raises:
            ValueError: The samples differ in size.
        """
        samples = [self[index] for index in indices]
        first = samples[0]
        for other in samples:
            if other["image"].shape != first["image"].shape:
                raise ValueError(
                    f"frame {first['index']} has {_extent(first['image'].shape[1:])} pixels, but frame "
                    f"{other['index']} of the same batch {_extent(other['image'].shape[1:])}: give the size to resize "
                    "all frames to"
                )
        return {name: _channels_last(values) for name, values in collate(samples).items()}

    def _check(self, frame: Frame, position: int) -> None:
        shapes = [values.shape[:2] for values in (frame.image, frame.depth, frame.target)]
        if len(set(shapes)) > 1:
            image, depth, target = map(_extent, shapes)
            raise ValueError(
                f"{self._described(position)} has an image of {image}, a depth of {depth} and a target of {target} "
                "pixels, which must have one size"
            )
        if self.crop is not None and (self.crop[0] > shapes[0][0] or self.crop[1] > shapes[0][1]):
            raise ValueError(
                f"{self._described(position)} has {_extent(shapes[0])} pixels, of which {_extent(self.crop)} cannot be "
                "cut out"
            )
        if self.num_classes is None:
            return
        strange = (frame.target >= self.num_classes) & (frame.target != IGNORED)
        if strange.any():
            raise ValueError(
                f"{self._described(position)} has the label {frame.target[strange][0]}, but labels are 0 to "
                f"{self.num_classes - 1}, or {IGNORED} where ignored"
            )

    def _described(self, position: int) -> str:
        return f"frame {position}" + (f" ({self.names[position]})" if self.names else "")

    def _response(
        self, responses: StoredResponses, position: int, full: tuple[int, int], cropped: tuple[int, int]
    ) -> Floats:
        """The response, cropped as its frame is, unless it was stored in the size after the crop or the resizing."""
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


class FrameDataModule(DrawnDataModule):
    """Base of the data modules of images with depth: a subclass makes the frames, and names its classes if it has any.

    - ``image`` ``(N, 3, H, W)``: RGB, normalised by ImageNet's mean and standard deviation;
    - ``depth`` ``(N, 1, H, W)``: metres along the optical axis divided by ``max_depth``, at most 1; 0 where nothing was
      measured;
    - ``disparity`` ``(N, 1, H, W)``: 2 m divided by the depth, at most 1; 0 infinitely far away and where nothing was
      measured;
    - ``normal`` ``(N, 3, H, W)``: unit surface normals that face the camera, x right, y down, z forward, so from -1 to
      1; 0 where there is none (:func:`~datamodules.transforms.depth_to_normals`);
    - ``hha`` ``(N, 3, H, W)``: disparity as above, height above the ground (1 is 10 m), angle with gravity (1 is the
      ground, 1/2 a wall), from 0 to 1; 0 where nothing was measured
      (:func:`~datamodules.transforms.depth_to_hha`);
    - ``target``, if it is of classes, ``(N, H, W)``: class indices, 255 where ignored; if it is of depth,
      ``(N, 1, H, W)``: metres, which ``max_depth`` does not limit, 0 where there is no ground truth;
    - ``teacher_prediction`` ``(N, 1, H, W)``, where there are ``responses``: metres, 0 where there is no response.

    Training draws its augmentation anew for each sample and epoch: for one ``seed_everything`` the same pairs come,
    bit by bit, with any number of workers or processes and in a resumed run
    (:class:`~datamodules.augmentation.DrawSampler`).

    Args:
        geometry: Which modalities beside ``image`` are made, of ``depth``, ``disparity``, ``normal`` and ``hha``.
        target: What is to be estimated, ``classes`` or ``depth``.
        responses: A folder with a teacher's stored responses to the frames, as
            :class:`~callbacks.ResponseWriter` or another program has written it
            (:class:`~datamodules.responses.StoredResponses`). One has the size of its frame as it lies on disk, or as
            it is after a fixed crop or the resizing to ``size``. ``setup`` asks for those that its stage needs.
        size: ``(H, W)`` that frames are resized to; ``None`` keeps them, and those of one batch must then be of one
            size.
        max_depth: The depth in metres that is 1 in ``depth``.
        augmentation: Changes the training samples at random; ``None`` leaves them as they are.
        seed: Fixes the data and the splits.
        batch_size: ``None`` trains on the full batch.
        num_workers: Processes that load data.
        predict_on: The split that ``predict`` sees, not augmented.
        on_error: Whether a damaged training file ends a fit (``raise``) or the next readable sample takes its place
            (``skip``).

    Raises:
        ValueError: An argument is out of its range.
        FileNotFoundError: From ``setup``: a response is not there.
    """

    class_names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()

    def __init__(
        self,
        geometry: Sequence[Geometry] = ("depth",),
        target: Target = "classes",
        responses: str | Path | None = None,
        size: tuple[int, int] | None = None,
        max_depth: float = 80.0,
        augmentation: PairedAugmentation | None = None,
        seed: int = 0,
        batch_size: int | None = 4,
        num_workers: int = 0,
        predict_on: SplitName = "test",
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(seed, batch_size, num_workers, predict_on, on_error)
        for name in geometry:
            if name not in get_args(Geometry):
                raise ValueError(f"geometry must be of {', '.join(get_args(Geometry))}, got {name!r}")
        if target not in get_args(Target):
            raise ValueError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}")
        if size is not None:
            check_counts(height=size[0], width=size[1])
        if not 0 < max_depth < float("inf"):
            raise ValueError(f"max_depth must be a finite number of metres above 0, got {max_depth}")
        self.geometry = tuple(geometry)
        self.target: Target = target
        self.responses = None if responses is None else Path(responses)
        self.size = None if size is None else (size[0], size[1])
        self.max_depth = max_depth
        self.augmentation = augmentation

    @property
    def num_classes(self) -> int | None:
        """How many classes the data set names; ``None`` where the target is depth."""
        return len(self.class_names) if self.target == "classes" else None

    @property
    def fixed_crop(self) -> tuple[int, int] | None:
        """``(H, W)`` of the lowest rows and middle columns that are cut out of every frame of all splits."""
        return None

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """``(H, W)`` of all frames that are not augmented; ``None`` where each has its own."""
        return self.size or self.fixed_crop

    @property
    def modalities(self) -> tuple[str, ...]:
        """``image`` and the geometry asked for; a stored response is none, but the opinion of another network."""
        return ("image", *self.geometry)

    @property
    def fixed_modalities(self) -> tuple[str, ...]:
        """All of them without ``augmentation``, which changes all; else none."""
        return self.modalities if self.augmentation is None else ()

    @property
    def predict_names(self) -> Sequence[str]:
        """The names of the frames that ``predict`` sees, by position; empty in a data set that names none."""
        return cast(FramePairs, self.predict_dataset).names

    @abstractmethod
    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """The frames of training, validation and test."""

    def make_splits(self) -> Splits:
        """Pairs the frames' modalities; only those of training are augmented."""
        responses = None if self.responses is None else StoredResponses(self.responses)

        def pairs(frames: Frames, augmentation: PairedAugmentation | None = None) -> FramePairs:
            return FramePairs(
                frames,
                self.num_classes,
                self.geometry,
                self.size,
                self.max_depth,
                augmentation,
                self.fixed_crop,
                responses,
            )

        train, val, test = self.make_frames()
        return Splits(pairs(train, self.augmentation), pairs(val), pairs(test))

    def setup(self, stage: str | None = None) -> None:
        """Makes the data sets of all stages on the first call, and looks for the responses that this stage needs.

        Only training needs them: splits to evaluate on may have none at all, and then give no ``teacher_prediction``.
        """
        super().setup(stage)
        needed: dict[str | None, Sequence[SplitName]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": (self.predict_on,),
        }
        for split in needed.get(stage, get_args(SplitName)):
            pairs = cast(FramePairs, getattr(self.splits, split))
            pairs.check_responses(required=split == "train" and stage in ("fit", None))


def _bottom(values: NDArray[Scalar], size: tuple[int, int]) -> NDArray[Scalar]:
    """The lowest rows and the columns in the middle."""
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


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Shrunk by the mean over areas, which does not alias, and enlarged between the nearest four pixels."""
    if image.shape[:2] == size:
        return image
    height, width = size
    # one step for both would shift the pixels where one side shrinks and the other grows
    least = min(width, image.shape[1]), min(height, image.shape[0])
    resized = cv2.resize(cv2.resize(image, least, interpolation=cv2.INTER_AREA), (width, height))
    return cast(NDArray[np.uint8], resized)


def _resized_nearest(values: NDArray[Scalar], size: tuple[int, int]) -> NDArray[Scalar]:
    if values.shape[:2] == size:
        return values
    height, width = size
    # INTER_NEAREST rounds down, and so is half a pixel beside the image
    return cast(NDArray[Scalar], cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _normalised(image: NDArray[np.uint8]) -> Floats:
    mean, std = (np.float32(255) * np.array(values, dtype=np.float32) for values in (MEAN, STD))
    normalised: Floats = (image - mean) / std
    return normalised


def _channels_first(values: Floats) -> Floats:
    """``(H, W)`` or ``(H, W, C)`` as ``(C, H, W)``."""
    return np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def _channels_last(batch: torch.Tensor) -> torch.Tensor:
    """Maps with their channels innermost, from which convolutions run up to a third faster."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def _extent(shape: Sequence[int]) -> str:
    height, width = shape
    return f"{height} x {width}"
