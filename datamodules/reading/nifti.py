"""Volumes in NIfTI files."""

from __future__ import annotations

import zlib
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.arrays import Floats
from datamodules.reading.image_files import UnreadableError
from distill.errors import UserError, UserImportError

TOLERANCE = 1e-2
"""Millimetres by which affines of one case may differ: programs round them."""


class VolumeHeader(NamedTuple):
    """The number of voxels along the file's three axes, and the affine from voxels to millimetres, ``(4, 4)``."""

    shape: tuple[int, ...]
    affine: NDArray[np.float64]


def read_volume_header(path: Path) -> VolumeHeader:
    """Shape and affine of a volume; the voxels are not read.

    Raises:
        ValueError: The file is damaged, holds no volume of three dims, or its voxels are no real numbers.
        ModuleNotFoundError: nibabel is not installed.
    """
    image = _open(path)
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all():
        raise UnreadableError(f"{path} has an affine that is not finite: save the volume with its voxel size")
    return VolumeHeader(tuple(map(int, image.shape)), affine)


def read_volume(path: Path) -> Floats:
    """The values of a volume, scaled as its header says, ``(D, H, W)``: the file's third, second and first axis.

    Raises:
        ValueError: The file is damaged, holds no volume of three dims, or holds a value that is not finite.
        ModuleNotFoundError: nibabel is not installed.
    """
    values = _values(path).astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableError(f"{path} holds a value that is not finite")
    return np.ascontiguousarray(values.T)


def read_label_volume(path: Path, labels: tuple[int, ...], advice: str = "") -> NDArray[np.int64]:
    """The classes of a volume of labels, ``(D, H, W)``.

    Args:
        path: The file.
        labels: The label of each class.
        advice: What else another label may mean, for the error.

    Raises:
        ValueError: The file is damaged, holds no volume of three dims, or holds another label.
        ModuleNotFoundError: nibabel is not installed.
    """
    values = _values(path)
    found = np.unique(values)
    strange = found[~np.isin(found, labels)]
    if len(strange):
        raise UserError(
            f"{path} holds the label {strange[0]:g}, but the labels are {', '.join(map(str, labels))}{advice}"
        )
    classes = np.zeros(max(labels) + 1, np.int64)
    classes[list(labels)] = np.arange(len(labels))
    return np.ascontiguousarray(classes[values.astype(np.int64)].T)


def nifti_bytes(labels: NDArray[np.uint8], affine: NDArray[np.float64]) -> bytes:
    """A NIfTI file of labels ``(D, H, W)``, not compressed.

    Args:
        labels: The file's third, second and first axis, as :func:`read_volume` returns them.
        affine: From the file's voxels to millimetres.

    Raises:
        ModuleNotFoundError: nibabel is not installed.
    """
    content: bytes = nibabel().Nifti1Image(labels.T, affine).to_bytes()
    return content


def nibabel() -> ModuleType:
    """The library nibabel.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        return import_module("nibabel")
    except ModuleNotFoundError:
        raise UserImportError("NIfTI files need nibabel: pip install 'crossdistill[nifti]'") from None


def _open(path: Path) -> Any:
    image = _read(path, lambda: nibabel().load(path))
    if len(image.shape) != 3 or 0 in image.shape:
        raise UnreadableError(f"{path} should hold a volume of three dims, but has the shape {tuple(image.shape)}")
    kind = image.get_data_dtype()
    if kind.kind not in "biuf":
        shown = "colours" if kind.kind == "V" else "complex numbers"
        raise UnreadableError(f"{path} should hold one real number for each voxel, but holds {shown} ({kind})")
    return image


def _values(path: Path) -> NDArray[Any]:
    image = _open(path)
    return np.asarray(_read(path, lambda: np.asanyarray(image.dataobj)))


def _read(path: Path, read: Any) -> Any:
    library = nibabel()
    # nibabel reports damage by all of these
    damage = (library.filebasedimages.ImageFileError, library.spatialimages.HeaderDataError)
    try:
        return read()
    except (*damage, OSError, EOFError, zlib.error, ValueError) as error:
        raise UnreadableError(f"{path} cannot be read ({error})") from None
