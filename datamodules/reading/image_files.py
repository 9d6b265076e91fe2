"""Finds folders and files by name, and reads images and maps; every error names the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import UserError, UserFileNotFoundError

# Pillow's modes; before version 10.3 it read 16-bit PNG files as 32-bit integers, "I", with the same values
_MODES = {
    "colour": ("RGB", "RGBA", "P"),
    "8-bit single-channel": ("L", "P"),
    "16-bit single-channel": ("I;16", "I;16B", "I"),
}


class UnreadableError(UserError):
    """A file is damaged or holds something else."""


def find_folder(root: Path, name: str, advice: str) -> Path:
    """The folder ``root/name``.

    Args:
        root: The folder that the user gave.
        name: The folder's path below the root, with slashes.
        advice: How to get the folder, for the error.

    Raises:
        FileNotFoundError: The folder is missing. If the root's parent or a subfolder holds it, the error says so.
    """
    if (root / name).is_dir():
        return root / name
    if not root.is_dir():
        raise UserFileNotFoundError(f"root {root} is not a folder")
    for candidate in (root.absolute().parent, *subfolders(root)):
        if (candidate / name).is_dir():
            raise UserFileNotFoundError(f"{root} holds no {name}, but {candidate} does: give that as root")
    raise UserFileNotFoundError(f"{root} holds no {name}: {advice}")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_files(folder: Path, prefix: str, suffix: str) -> dict[str, Path]:
    """The files ``<prefix><key><suffix>`` of a folder by their keys, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(suffix))
    return {name[len(prefix) : len(name) - len(suffix)]: folder / name for name in names if not name.startswith(".")}


def check_paired(files: Mapping[str, Path], kind: str, partners: Mapping[str, Path], partner: str, place: Path) -> None:
    """Checks that each file has a partner with the same key.

    Args:
        files: Paths by key.
        kind: What the files are, in the plural.
        partners: The paths of the partners by key.
        partner: What a partner is, in the singular.
        place: The folder of the partners.

    Raises:
        FileNotFoundError: Names the first file without a partner, and how many files have none.
    """
    alone = [path for key, path in files.items() if key not in partners]
    if alone:
        raise UserFileNotFoundError(
            f"{place} holds no {partner} for {len(alone)} of {len(files)} {kind}, the first is {alone[0]}"
        )


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of an image or a ``.npy`` map; only the header is read.

    Raises:
        ValueError: The file cannot be read, or its array is no map.
    """
    if path.suffix == ".npy":
        height, width = _open_map(path).shape
        return height, width
    with open_image(path) as image:
        return image.height, image.width


def read_color(path: Path) -> NDArray[np.uint8]:
    """Reads a colour image, ``(H, W, 3)``, RGB.

    Raises:
        ValueError: The file is damaged or has no colours.
    """
    with open_image(path, "colour") as image:
        return np.array(image.convert("RGB"))


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Reads an image of one byte a pixel, ``(H, W)``.

    Raises:
        ValueError: The file is damaged or has other pixels.
    """
    with open_image(path, "8-bit single-channel") as image:
        return np.array(image)


def read_uint16(path: Path) -> NDArray[np.uint16]:
    """Reads an image of two bytes a pixel, ``(H, W)``, without loss.

    Raises:
        ValueError: The file is damaged or has other pixels.
    """
    with open_image(path, "16-bit single-channel") as image:
        return np.array(image).astype(np.uint16)


def read_float_map(path: Path) -> NDArray[np.float32]:
    """Reads a ``.npy`` array of floating-point numbers, ``(H, W)``.

    Raises:
        ValueError: The file is damaged or holds another array.
    """
    return np.array(_open_map(path), np.float32)


@contextmanager
def open_image(path: Path, kind: str | None = None) -> Iterator[Image.Image]:
    """Opens an image for the body of a ``with`` statement.

    Args:
        path: The file.
        kind: The kind of pixels it must have, a key of ``_MODES``; ``None`` allows all.

    Raises:
        UnreadableError: The file is damaged, here or when the body decodes its pixels, or its pixels are of another
            kind.
    """
    try:
        with Image.open(path) as image:
            if kind is not None and image.mode not in _MODES[kind]:
                raise UserError(f"its pixels are of mode {image.mode}, not {kind}")
            yield image
    # Pillow reports damage by all of these, also in the body of the with statement, which decodes the pixels
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"{path} cannot be read ({error})") from None


def _open_map(path: Path) -> NDArray[np.floating]:
    try:
        array: NDArray[np.floating] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableError(f"{path} cannot be read ({error})") from None
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise UnreadableError(f"{path} should hold floats (H, W) and holds {array.dtype} {array.shape}")
    return array
