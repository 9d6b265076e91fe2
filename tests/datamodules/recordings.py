"""Miniature recordings in the formats and under the names of RAVDESS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile

RATE = 48000


def write_ravdess(root: Path, actors: Sequence[int] = (1, 2, 19, 21), vocals: Sequence[int] = (1,)) -> Path:
    """All emotions of some actors: tones of 0.3 s, whose height tells the actor, and frames that grow brighter."""
    for actor in actors:
        for vocal in vocals:
            for emotion in range(1, 9):
                fields = f"{vocal:02d}-{emotion:02d}-01-01-01-{actor:02d}"
                tone = 0.5 * np.sin(2 * np.pi * 100 * actor * np.arange(0.3 * RATE) / RATE)
                write_wav(root / f"Actor_{actor:02d}" / f"03-{fields}.wav", tone)
                write_video(root / f"Actor_{actor:02d}" / f"02-{fields}.mp4", grey_frames(12, emotion))
    return root


def write_wav(path: Path, sound: NDArray[np.float64], rate: int = RATE) -> Path:
    """Writes 16-bit samples, ``(L,)`` or ``(L, channels)``, from -1 to 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, (sound * 32767).astype(np.int16))
    return path


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
    """Writes RGB frames ``(H, W, 3)`` as MPEG-4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def cut_without_encoding(path: Path, frames: int) -> Path:
    """What a cut by stream copy leaves: all frames are stored and counted, but an edit list leaves out the first."""
    content = bytearray(path.read_bytes())
    start = content.index(b"elst") + 16
    content[start : start + 4] = (frames * 512).to_bytes(4, "big")  # in ticks of the writer, 512 a frame
    path.write_bytes(content)
    return path


def with_its_index_in_front(path: Path) -> Path:
    """The same video in the order for streaming: it opens even if its end is missing."""
    content = path.read_bytes()
    data, index = content.index(b"mdat") - 4, content.index(b"moov") - 4
    moved = bytearray(content[index:])
    offset = moved.index(b"stco") + 12
    first = int.from_bytes(moved[offset : offset + 4], "big") + len(moved)
    moved[offset : offset + 4] = first.to_bytes(4, "big")
    path.write_bytes(content[:data] + moved + content[data:index])
    return path


def grey_frames(count: int, step: int, size: tuple[int, int] = (36, 64)) -> list[NDArray[np.uint8]]:
    """Frames of one grey each, 40 and ``step`` more in every frame."""
    return [np.full((*size, 3), 40 + step * number, np.uint8) for number in range(count)]
