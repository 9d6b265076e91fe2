from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from datamodules.reading.frame import Camera
from datamodules.reading.frame_files import FileFrames, FrameFiles, split_at_random
from tests.datamodules.trees import save

CAMERA = Camera(fx=700.0, fy=710.0, cx=20.0, cy=6.0, baseline=0.5, height=1.6)


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (200, (7, 3), [140, 60]),
        (10, (7, 3), [7, 3]),
        (1500, (6, 1, 3), [900, 150, 450]),
        (11, (6, 1, 3), [6, 1, 4]),
    ],
)
def test_parts_have_their_shares_cover_all_and_share_nothing(
    count: int, shares: tuple[int, ...], sizes: list[int]
) -> None:
    parts = split_at_random(range(count), shares, seed=3)
    assert [len(part) for part in parts] == sizes
    assert sorted(item for part in parts for item in part) == list(range(count))
    assert all(part == sorted(part) for part in parts)


def test_the_seed_decides_who_goes_where() -> None:
    splits = [split_at_random(range(200), (7, 3), seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    # of 60 drawn out of 200, 18 are expected in both
    assert 6 < len(set(splits[0][1]) & set(splits[2][1])) < 32


def test_a_count_draws_from_all_and_leaves_the_rest_out() -> None:
    parts = split_at_random(range(1000), (6, 1, 3), seed=0, count=100)
    assert [len(part) for part in parts] == [60, 10, 30]
    drawn = {item for part in parts for item in part}
    assert len(drawn) == 100
    assert min(drawn) < 100
    assert max(drawn) >= 900


def test_too_few_to_draw_or_to_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1500 images cannot be drawn from the 10 there are; None takes all"):
        split_at_random(range(10), (6, 1, 3), seed=0, count=1500)
    with pytest.raises(ValueError, match=r"^a split 6:1:3 leaves a part empty: there are too few images, 4$"):
        split_at_random(range(4), (6, 1, 3), seed=0)
    with pytest.raises(ValueError, match=r"^a split 6:1:3 leaves a part empty: there are too few images, 4$"):
        split_at_random(range(100), (6, 1, 3), seed=0, count=4)


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
