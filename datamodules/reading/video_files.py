"""Frames of video files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.reading.image_files import UnreadableError


def read_frames(path: Path, count: int, side: int) -> NDArray[np.uint8]:
    """Reads evenly spaced frames, those in the middle of ``count`` equal parts: their middle squares, resized.

    Args:
        path: Anything that OpenCV decodes.
        count: F, how many frames; a shorter video repeats some.
        side: Height and width of what comes back, in pixels.

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
            # a frame is decoded from those before it, but only those wanted need be converted to colours
            there = video.grab()
            if there and position in wanted:
                there, pixels = video.retrieve()
            if not there:
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
