"""Photographs, and random crops of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from datamodules.reading.folders import walk_files
from datamodules.reading.image_files import UnreadableError, read_header, read_pixels
from distill.errors import UserError, UserFileNotFoundError

PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png")
# files of the wheels; skimage.data would look into its download cache and ask the network
BUNDLED_PHOTOGRAPHS = {
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "skimage": [
        f"data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    ],
}


def bundled_photographs() -> list[Path]:
    """Seven colour photographs from the wheels of scikit-learn and scikit-image.

    Raises:
        FileNotFoundError: An installed package lacks one of them.
    """
    paths = [Path(str(files(package))) / name for package, names in BUNDLED_PHOTOGRAPHS.items() for name in names]
    for path in paths:
        if not path.is_file():
            raise UserFileNotFoundError(
                f"the photograph {path} is not installed: give a folder of photographs as patches_dir"
            )
    return paths


def find_photographs(folder: Path) -> list[Path]:
    """All JPEG and PNG files below a folder, sorted, each once; hidden files and other junk are left out.

    Raises:
        FileNotFoundError: The folder does not exist, or holds no photograph.
    """
    if not folder.is_dir():
        raise UserFileNotFoundError(f"patches_dir {folder} is not a folder")
    found = [Path(path) for path in walk_files(folder, PHOTOGRAPH_SUFFIXES).values()]
    if not found:
        raise UserFileNotFoundError(f"patches_dir {folder} holds no photographs ({', '.join(PHOTOGRAPH_SUFFIXES)})")
    return sorted(found)


def random_crops(paths: Sequence[Path], count: int, side: int, rng: Generator) -> NDArray[np.uint8]:
    """Square crops at random positions; all positions of all photographs have the same probability.

    No position is used twice, unless there are fewer positions than ``count``.

    Args:
        paths: The photographs, which are turned upright by their EXIF tags; grey ones become RGB, and pixels of more
            than 8 bits are rounded to 8.
        count: The number of crops.
        side: Their height and width in pixels.
        rng: Draws the positions.

    Returns:
        ``(count, 3, side, side)``, RGB.

    Raises:
        ValueError: A photograph is smaller than a crop or cannot be read.
    """
    heights, widths = np.array([_size(path, side) for path in paths]).T
    positions = (heights - side + 1) * (widths - side + 1)
    ends = positions.cumsum()
    drawn = rng.choice(ends[-1], count, replace=bool(count > ends[-1]))
    photograph = np.searchsorted(ends, drawn, side="right")
    row, column = np.divmod(drawn - (ends - positions)[photograph], (widths - side + 1)[photograph])

    crops = np.empty((count, 3, side, side), np.uint8)
    for number in np.unique(photograph):
        in_photograph = photograph == number
        pixels = _pixels(paths[number])
        if pixels.shape[:2] != (heights[number], widths[number]):
            raise UserError(
                f"the photograph {paths[number]} is turned by EXIF data behind its pixels: write it upright"
            )
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (side, side), axis=(0, 1))
        crops[in_photograph] = windows[row[in_photograph], column[in_photograph]]
    return crops


def _size(path: Path, side: int) -> tuple[int, int]:
    with _explained():
        height, width, _ = read_header(path)
    if min(width, height) < side:
        raise UserError(f"the photograph {path} is {width} x {height} pixels, crops need at least {side} x {side}")
    return height, width


def _pixels(path: Path) -> NDArray[np.uint8]:
    with _explained():
        return np.rint(read_pixels(path)).astype(np.uint8)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except UnreadableError as error:
        raise UserError(f"the photograph {error}: replace or remove it") from None
