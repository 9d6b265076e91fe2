"""Frames whose image, label and depth lie in files of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.arrays import Floats
from datamodules.reading.frame import IGNORED, Camera, Frame
from datamodules.reading.image_files import Header, read_color, read_header, read_uint16
from distill.errors import UserError


class FrameFiles(NamedTuple):
    """The files of a frame. ``depth`` holds depth or disparity, as the data set stores it, or is ``None``."""

    image: Path
    target: Path | None
    depth: Path | None
    camera: Camera


class FileFrames:
    """A split whose frames are read when they are needed.

    Args:
        files: One entry a frame.
        root: The folder that holds the images, at any depth; their paths below it are the frames' names.
        read_target: Reads class indices, ``(H, W)`` ``uint8``; ``None`` reads none.
        read_depth: Reads metres, ``(H, W)`` ``float32``, 0 where nothing was measured.

    Raises:
        ValueError: The files of a frame differ in size or orientation, or a header cannot be read. Only headers are
            read here.
    """

    def __init__(
        self,
        files: Sequence[FrameFiles],
        root: Path,
        read_target: Callable[[Path], NDArray[np.uint8]] | None,
        read_depth: Callable[[Path, Camera], NDArray[np.float32]],
    ) -> None:
        self.sizes = [_checked_size(frame) for frame in files]
        self.files = files
        self.names = [frame_name(frame.image, root) for frame in files]
        self.read_target = read_target
        self.read_depth = read_depth

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Frame:
        files = self.files[index]
        image = read_color(files.image)
        if files.depth is None:
            depth = np.zeros(image.shape[:2], np.float32)
        else:
            depth = self.read_depth(files.depth, files.camera)
        if files.target is None or self.read_target is None:
            target = np.full(image.shape[:2], IGNORED, np.uint8)
        else:
            target = self.read_target(files.target)
        return Frame(image, depth, target, files.camera)


def frame_name(image: Path, root: Path) -> str:
    """The name of a frame: its image's path below the root, with slashes and without a suffix."""
    return image.relative_to(root).with_suffix("").as_posix()


def read_scaled_depth(path: Path, camera: Camera, *, units_per_metre: int) -> Floats:
    """Reads depth that a 16-bit image stores in a fixed unit, in metres ``(H, W)``; 0 where nothing was measured.

    Args:
        path: The file.
        camera: Not used; other data sets need it to turn disparity into depth.
        units_per_metre: The number that stands for one metre.

    Raises:
        ValueError: The file is damaged or has other pixels.
    """
    metres: Floats = read_uint16(path).astype(np.float32) / np.float32(units_per_metre)
    return metres


def _checked_size(files: FrameFiles) -> tuple[int, int]:
    """Height and width of a frame."""
    own = read_header(files.image)
    for other in filter(None, (files.target, files.depth)):
        _check_same(own, files.image, read_header(other), other)
    return own.height, own.width


def _check_same(own: Header, image: Path, header: Header, other: Path) -> None:
    if header[:2] != own[:2]:
        raise UserError(
            f"{other} is {header.width} x {header.height} pixels, its image {image} is {own.width} x {own.height}"
        )
    if header.turned != own.turned:  # nobody can tell whether the pixels of the other file were turned before
        turned, plain = (image, other) if own.turned else (other, image)
        raise UserError(
            f"an EXIF tag turns or reflects {turned}, but not {plain}: write the pixels upright, and remove the tag"
        )
