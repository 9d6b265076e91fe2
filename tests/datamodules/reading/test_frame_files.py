from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from datamodules.reading.frame import Camera
from datamodules.reading.frame_files import FileFrames, FrameFiles
from tests.datamodules.trees import save

CAMERA = Camera(fx=700.0, fy=710.0, cx=20.0, cy=6.0, baseline=0.5, height=1.6)


def read_nothing(*arguments: object) -> NoReturn:
    raise AssertionError("pixels were read")


def write_frame(folder: Path) -> FrameFiles:
    image, target, depth = (folder / f"{name}.png" for name in ("image", "target", "depth"))
    save(image, np.zeros((12, 40, 3), np.uint8))
    save(target, np.zeros((12, 40), np.uint8))
    save(depth, np.zeros((12, 40), np.uint16))
    return FrameFiles(image, target, depth, CAMERA)


def test_frames_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    frames = FileFrames([write_frame(tmp_path)] * 3, tmp_path, read_nothing, read_nothing)
    assert len(frames) == 3
    with pytest.raises(AssertionError, match="pixels were read"):
        frames[0]


@pytest.mark.parametrize("wrong", ["target", "depth"])
def test_files_of_another_size_are_refused_before_they_are_read(tmp_path: Path, wrong: str) -> None:
    files = [write_frame(tmp_path / name) for name in ("first", "second")]
    path = save(getattr(files[1], wrong), np.zeros((40, 12), np.uint8))
    with pytest.raises(ValueError, match=rf"^{path} is 12 x 40 pixels, its image {files[1].image} is 40 x 12$"):
        FileFrames(files, tmp_path, read_nothing, read_nothing)


def test_a_damaged_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    files = write_frame(tmp_path)
    assert files.depth is not None
    files.depth.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"^{files.depth} cannot be read"):
        FileFrames([files], tmp_path, read_nothing, read_nothing)
