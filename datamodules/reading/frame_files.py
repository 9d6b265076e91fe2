"""Frames whose image, label and depth lie in files of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.frame import IGNORED, Camera, Frame
from datamodules.reading.image_files import image_size, read_color
from distill.errors import UserError

T = TypeVar("T")


class FrameFiles(NamedTuple):
    """Where a frame lies. ``depth`` holds depth or disparity, as the data set has it; ``None`` where there is none."""

    image: Path
    target: Path | None
    depth: Path | None
    camera: Camera


class FileFrames:
    """A split of frames that are read when they are asked for.

    Args:
        files: One entry a frame.
        root: The folder that the images lie in, at any depth; their paths below it are the frames' names.
        read_target: Reads class indices, ``(H, W)`` ``uint8``; ``None`` where nobody needs them.
        read_depth: Reads metres, ``(H, W)`` ``float32``, 0 where nothing was measured.

    Raises:
        ValueError: The files of a frame differ in size, or a header cannot be read, which is all that is read of them
            until a frame is asked for.
    """

    def __init__(
        self,
        files: Sequence[FrameFiles],
        root: Path,
        read_target: Callable[[Path], NDArray[np.uint8]] | None,
        read_depth: Callable[[Path, Camera], NDArray[np.float32]],
    ) -> None:
        for one in files:
            _check_sizes(one)
        self.files = files
        self.names = [one.image.relative_to(root).with_suffix("").as_posix() for one in files]
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


def split_at_random(items: Sequence[T], shares: Sequence[int], seed: int, count: int | None = None) -> list[list[T]]:
    """Splits items at random, keeping their order within the parts.

    Args:
        items: In an order that does not depend on the file system.
        shares: The parts' shares, as 7 and 3.
        seed: Fixes who goes where.
        count: How many items to draw first; ``None`` takes all.

    Raises:
        ValueError: There are fewer than ``count`` items, or a part would be empty.
    """
    if count is not None and count > len(items):
        raise UserError(f"{count} images cannot be drawn from the {len(items)} there are; None takes all")
    drawn = np.random.default_rng(seed).permutation(len(items))[:count]
    ends = len(drawn) * np.cumsum(shares)[:-1] // sum(shares)
    parts = np.split(drawn, ends)
    if not all(map(len, parts)):
        ratio = ":".join(map(str, shares))
        raise UserError(f"a split {ratio} leaves a part empty: there are too few images, {len(drawn)}")
    return [[items[position] for position in sorted(part)] for part in parts]


def _check_sizes(files: FrameFiles) -> None:
    height, width = image_size(files.image)
    for other in filter(None, (files.target, files.depth)):
        size = image_size(other)
        if size != (height, width):
            raise UserError(f"{other} is {size[1]} x {size[0]} pixels, its image {files.image} is {width} x {height}")
