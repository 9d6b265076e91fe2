"""Frames of video files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.reading.image_files import UnreadableError


def read_frames(path: Path, count: int, side: int) -> NDArray[np.uint8]:
    """Reads evenly spaced frames, and resizes their middle squares.

    The video is divided into ``count`` equal parts; the frame in the middle of each part is read.

    Args:
        path: A file that OpenCV decodes.
        count: F, the number of frames; a shorter video repeats some.
        side: Height and width of the frames that are returned, in pixels.

    Returns:
        RGB, ``(F, 3, side, side)``.

    Raises:
        ValueError: The file is damaged, has no frames, or ends early.
    """
    video = cv2.VideoCapture(str(path))
    try:
        length = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
        if length < 1:
            raise UnreadableError(f"{path} cannot be read as a video")
        wanted = ((np.arange(count) + 0.5) * length / count).astype(int)
        frames = {}
        for position in range(wanted[-1] + 1):
            # decoding a frame needs all frames before it; only the wanted ones are converted to colours
            decoded = video.grab()
            if decoded and position in wanted:
                decoded, pixels = video.retrieve()
            if not decoded:
                raise UnreadableError(f"{path} ends at frame {position} of {length}")
            if position in wanted:
                frames[position] = _square(pixels, side)
    finally:
        video.release()
    return np.stack([frames[position] for position in wanted.tolist()])


def _square(pixels: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """The middle square of ``(H, W, 3)``, blue first, as RGB ``(3, side, side)``."""
    height, width = pixels.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = pixels[top : top + least, left : left + least, ::-1]
    resized = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.moveaxis(resized, 2, 0), np.uint8)
