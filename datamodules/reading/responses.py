"""A teacher's stored responses: a folder with one depth map for each frame."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.reading.arrays import Floats
from datamodules.reading.image_files import UnreadableError, read_uint16
from datamodules.reading.text_files import read_text
from distill.errors import UserError, UserFileNotFoundError

ResponseFormat = Literal["png", "npz"]

FORMATS: tuple[ResponseFormat, ...] = ("npz", "png")
"""The format that is read first, where a response has both, first."""

DESCRIPTION = "responses.json"
"""Describes a folder of responses; its ``metres_per_unit`` is the unit of the PNG files."""


class StoredResponses:
    """Reads a folder of stored responses.

    The response to a frame is ``<folder>/<name of the frame>.npz``, whose array ``depth`` holds metres, or
    ``<folder>/<name of the frame>.png``, with 16 bits. ``<folder>/responses.json`` gives the unit of the PNG files, as
    ``{"metres_per_unit": 0.001}`` for millimetres. 0 means that a pixel has no response. If both files exist, the
    ``.npz`` file is read.

    Where there is no such file, a flat name is looked for, in which underscores replace the slashes, as in the released
    code of TIE-KD: ``<folder>/2011_09_26_2011_09_26_drive_0002_sync_image_02_data_0000000069.png``. That code keeps the
    responses to validate on in a second folder, ``gt_kd_adabins_val`` beside ``gt_kd_adabins``, which is also searched.

    Args:
        folder: Written by :class:`~callbacks.ResponseWriter` or another program.
        flat_unit: The metres per unit of PNG files with flat names, if ``responses.json`` gives none; ``None`` if it
            must.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: ``responses.json`` does not give the unit.
    """

    def __init__(self, folder: Path, flat_unit: float | None = None) -> None:
        if not folder.is_dir():
            raise UserFileNotFoundError(f"responses {folder} is not a folder")
        self.folder = folder
        self.flat_unit = flat_unit
        self.flat_folders = (folder, folder.parent / re.sub(r"\d*$", r"_val\g<0>", folder.name, count=1))
        self.metres_per_unit = None
        description = read_description(folder)
        if description is not None:
            unit = description.get("metres_per_unit")
            if not isinstance(unit, (int, float)) or not 0 < unit < float("inf"):
                raise UserError(
                    f"{folder / DESCRIPTION} should give metres_per_unit, a number above 0, as 0.001 for millimetres"
                )
            self.metres_per_unit = float(unit)

    def check(self, names: Sequence[str]) -> None:
        """Checks that there is a response to every frame of these names, and that its unit is known.

        Raises:
            FileNotFoundError: Names the first missing response, and how many are missing, or the missing file with the
                unit.
        """
        paths = {name: self._find(name) for name in names}
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            raise UserFileNotFoundError(
                f"{self.folder} holds no response for {len(missing)} of {len(paths)} frames, the first is "
                f"{missing[0]}.png or .npz"
            )
        images = [(name, path) for name, path in paths.items() if path is not None and path.suffix == ".png"]
        if any(self._unit(name, path) is None for name, path in images):
            raise UserFileNotFoundError(
                f"{self.folder} holds no {DESCRIPTION} to give the unit of its PNG files: write one that holds "
                f'{{"metres_per_unit": 0.001}} for millimetres, or {80 / 65535!r} for the 80/65535 m of the maps that '
                "TIE-KD's released code writes"
            )
        if images and self.metres_per_unit is None:
            rank_zero_info(
                f"{self.folder} holds no {DESCRIPTION}: its {len(images)} PNG files are read in the unit of TIE-KD's "
                f"released code, {self.flat_unit:.6g} m"
            )

    def holds_any(self, names: Sequence[str]) -> bool:
        """Whether there is a response to any frame of these names."""
        return any(self._find(name) is not None for name in names)

    def read(self, name: str, sizes: Sequence[tuple[int, int]]) -> Floats:
        """The response to a frame in metres, ``(H, W)``.

        Args:
            name: The name of the frame.
            sizes: The sizes ``(H, W)`` that a response may have.

        Raises:
            FileNotFoundError: The response is missing.
            ValueError: The response is damaged, has another size, or holds values that are no depth.
        """
        path = self._find(name)
        if path is None:
            raise UserFileNotFoundError(f"{self.folder} holds no response {name}.png or .npz")
        depth = _read_npz(path) if path.suffix == ".npz" else self._read_png(name, path)
        if depth.shape not in sizes:
            fitting = " or ".join(f"{height} x {width}" for height, width in dict.fromkeys(sizes))
            raise UserError(f"{path} is {depth.shape[0]} x {depth.shape[1]}, but its frame {fitting}")
        if not (np.isfinite(depth).all() and (depth >= 0).all()):
            raise UserError(f"{path} should hold metres, and 0 where there is no response, but holds other values")
        return depth

    def _find(self, name: str) -> Path | None:
        places = [(self.folder, name), *((folder, name.replace("/", "_")) for folder in self.flat_folders)]
        candidates = (response_path(folder, form, suffix) for folder, form in places for suffix in FORMATS)
        return next((path for path in candidates if path.is_file()), None)

    def _unit(self, name: str, path: Path) -> float | None:
        """The metres per unit of a PNG file; ``None`` if nothing says it."""
        is_flat = path != response_path(self.folder, name, "png")
        return self.flat_unit if self.metres_per_unit is None and is_flat else self.metres_per_unit

    def _read_png(self, name: str, path: Path) -> Floats:
        unit = self._unit(name, path)
        if unit is None:
            raise UserError(f"{path} has no unit: there is no {self.folder / DESCRIPTION}")
        return (read_uint16(path) * unit).astype(np.float32)


def response_path(folder: Path, name: str, suffix: ResponseFormat) -> Path:
    """The file of the response to the frame of this name."""
    return folder / f"{name}.{suffix}"


def read_description(folder: Path, name: str = DESCRIPTION) -> dict[str, Any] | None:
    """The content of ``responses.json``, or of another description; ``None`` if the file does not exist.

    Raises:
        ValueError: The file holds no JSON object.
    """
    path = folder / name
    if not path.is_file():
        return None
    text = read_text(path)
    try:
        description = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    if not isinstance(description, dict):
        example = ' as {"metres_per_unit": 0.001}' if name == DESCRIPTION else ""
        raise UserError(f"{path} should hold a JSON object{example}")
    return description


def _read_npz(path: Path) -> Floats:
    damage = (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error)
    try:
        with np.load(path) as arrays:
            depth = arrays["depth"]
    except damage as error:
        raise UnreadableError(f"{path} cannot be read ({error})") from None
    if depth.ndim != 2 or not np.issubdtype(depth.dtype, np.floating):
        raise UnreadableError(f"{path} should hold floats (H, W) under 'depth' and holds {depth.dtype} {depth.shape}")
    return np.asarray(depth, np.float32)
