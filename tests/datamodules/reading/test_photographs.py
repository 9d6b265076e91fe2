from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.reading import photographs
from datamodules.reading.photographs import bundled_photographs, find_photographs, random_crops


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_crop_is_a_piece_of_a_photograph_and_none_comes_twice(tmp_path: Path) -> None:
    pictures = [noise(30, 33, 1), noise(29, 28, 2)]
    paths = [save(tmp_path / f"{i}.png", picture) for i, picture in enumerate(pictures)]
    pieces = {
        picture[top : top + 28, left : left + 28].transpose(2, 0, 1).tobytes()
        for picture in pictures
        for top in range(picture.shape[0] - 27)
        for left in range(picture.shape[1] - 27)
    }
    crops = random_crops(paths, 20, 28, np.random.default_rng(0))
    assert crops.shape == (20, 3, 28, 28)
    assert crops.dtype == np.uint8
    # 3 x 6 positions in the first, 2 x 1 in the second: all of them, once each
    assert len(pieces) == 20
    assert {crop.tobytes() for crop in crops} == pieces


def test_crops_repeat_only_where_there_are_too_few_positions(tmp_path: Path) -> None:
    crops = random_crops([save(tmp_path / "a.png", noise(28, 29))], 50, 28, np.random.default_rng(0))
    assert len({crop.tobytes() for crop in crops}) == 2


def test_photographs_are_found_in_folders_below_and_sorted(tmp_path: Path) -> None:
    for name in ("b/z.JPG", "b/a.jpeg", "a/x.png", ".hidden.png"):
        save(tmp_path / name, noise(30, 30))
    (tmp_path / "notes.txt").write_text("no photograph")
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in find_photographs(tmp_path)] == [
        "a/x.png",
        "b/a.jpeg",
        "b/z.JPG",
    ]


def test_a_folder_without_photographs_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"patches_dir {tmp_path} holds no photographs"):
        find_photographs(tmp_path)
    with pytest.raises(FileNotFoundError, match="none is not a folder"):
        find_photographs(tmp_path / "none")


def test_a_photograph_smaller_than_a_crop_is_one_clear_error(tmp_path: Path) -> None:
    save(tmp_path / "large.png", noise(40, 40))
    small = save(tmp_path / "small.png", noise(40, 27))
    with pytest.raises(ValueError, match=f"{small} is 27 x 40 pixels, crops need at least 28 x 28"):
        random_crops(find_photographs(tmp_path), 3, 28, np.random.default_rng(0))


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_a_photograph_that_is_cut_off_is_one_clear_error(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "broken.png", noise(60, 60))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"the photograph {path} cannot be read") as error:
        random_crops([path], 3, 28, np.random.default_rng(0))
    assert "\n" not in str(error.value)


def test_grey_and_transparent_photographs_become_coloured(tmp_path: Path) -> None:
    grey = save(tmp_path / "grey.png", noise(28, 28)[:, :, 0])
    clear = save(tmp_path / "clear.png", np.dstack([noise(28, 28), np.full((28, 28), 9, np.uint8)]))
    first, second = (random_crops([path], 1, 28, np.random.default_rng(0))[0] for path in (grey, clear))
    assert (first == first[:1]).all()
    assert np.array_equal(second, noise(28, 28).transpose(2, 0, 1))


def test_bundled_photographs_are_coloured_and_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    crops = random_crops(bundled_photographs(), 500, 28, np.random.default_rng(0))
    assert len(bundled_photographs()) == 7
    assert (crops[:, 0] != crops[:, 2]).mean() > 0.8


def test_a_photograph_missing_from_an_installation_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"china\.jpg is not installed: give a folder"):
        bundled_photographs()
