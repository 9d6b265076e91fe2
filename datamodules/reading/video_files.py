"""Frames of video files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from datamodules.reading.image_files import UnreadableError


def read_frames(path: Path, count: int, side: int) -> NDArray[np.uint8]:
    """Reads evenly spaced frames, and resizes their middle squares.

    The video is divided into ``count`` equal parts; the frame in the middle of each part is read. A video that was cut
    without encoding it again claims the frames before the cut, too, which do not decode: the parts are then those of
    the frames that decode, and one line says so.

    Args:
        path: A file that OpenCV decodes.
        count: F, the number of frames; a shorter video repeats some.
        side: Height and width of the frames that are returned, in pixels.

    Returns:
        RGB, ``(F, 3, side, side)``.

    Raises:
        ValueError: The file is damaged, has no frames, or its end is missing.
    """
    length, decoded, frames = _read(path, count, side)
    if decoded == 0 or (frames is None and _lacks_its_end(path)):
        raise UnreadableError(f"{path} ends at frame {decoded} of {length}")
    if frames is None:
        _say_shorter(path, length, decoded)
        _, _, frames = _read(path, count, side, decoded)
    assert frames is not None
    return frames


def _read(path: Path, count: int, side: int, length: int | None = None) -> tuple[int, int, NDArray[np.uint8] | None]:
    """The length, the number of frames that were decoded, and the wanted ones unless the video ended before them.

    Args:
        path: The file.
        count: The number of frames.
        side: Their height and width.
        length: The number of frames over which they are spread; that which the file claims by default.

    Raises:
        ValueError: The file is no video.
    """
    video = cv2.VideoCapture(str(path))
    try:
        claimed = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
        if claimed < 1:
            raise UnreadableError(f"{path} cannot be read as a video")
        length = length or claimed
        wanted = ((np.arange(count) + 0.5) * length / count).astype(int)
        frames = {}
        for position in range(wanted[-1] + 1):
            # decoding a frame needs all frames before it; only the wanted ones are converted to colours
            decoded = video.grab()
            if decoded and position in wanted:
                decoded, pixels = video.retrieve()
            if not decoded:
                return length, position, None
            if position in wanted:
                frames[position] = _square(pixels, side)
    finally:
        video.release()
    return length, length, np.stack([frames[position] for position in wanted.tolist()])


def _lacks_its_end(path: Path) -> bool:
    """Whether the last part of an MP4 file should go on behind the end of the file."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start + 8 <= size:
            file.seek(start)
            header = file.read(16)
            if start == 0 and header[4:8] != b"ftyp":
                return False  # another container
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if length == 0:  # up to the end
                return False
            start += max(length, 8)
    return start > size


@cache
def _say_shorter(path: Path, length: int, decoded: int) -> None:
    """Says once for each file that it has fewer frames than it claims."""
    rank_zero_info(f"{path} claims {length} frames, but {decoded} decode: the frames are spread over these")


def _square(pixels: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """The middle square of ``(H, W, 3)``, blue first, as RGB ``(3, side, side)``."""
    height, width = pixels.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = pixels[top : top + least, left : left + least, ::-1]
    resized = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.moveaxis(resized, 2, 0), np.uint8)
