"""The folders and file names of the BraTS challenges: one folder for each case, one file for each sequence of MRI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from datamodules.reading.folders import walk_files
from datamodules.reading.nifti import TOLERANCE, VolumeHeader, read_volume_header
from distill.errors import UserError, UserFileNotFoundError

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
"""T1, T1 after contrast agent, T2 and T2-FLAIR, by the names that BraTS uses since 2023."""

CLASS_NAMES = ("background", "NCR", "ED", "ET")
"""Necrotic core, oedema and enhancing tumour."""

PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
"""RGB of the classes, with the resection cavity of 2024; the colours that ITK-SNAP starts with."""

ReleaseYear = Literal[2021, 2023, 2024]


class Release(NamedTuple):
    """How a release names the file of each sequence and of the segmentation, and the label of each class."""

    endings: Mapping[str, str]
    segmentation: str
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    example: str


_SINCE_2023 = {name: f"-{name}" for name in SEQUENCES}
RELEASES: Mapping[int, Release] = {
    2021: Release(
        {"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair"},
        "_seg",
        (0, 1, 2, 4),
        CLASS_NAMES,
        "BraTS2021_00000/BraTS2021_00000_t1.nii.gz",
    ),
    2023: Release(_SINCE_2023, "-seg", (0, 1, 2, 3), CLASS_NAMES, "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz"),
    2024: Release(
        _SINCE_2023,
        "-seg",
        (0, 1, 2, 3, 4),
        (*CLASS_NAMES, "RC"),
        "BraTS-GLI-00005-100/BraTS-GLI-00005-100-t1n.nii.gz",
    ),
}
"""By the year: 2018 to 2021 are named and labelled like 2021. RC, in 2024, is the resection cavity."""

OTHER_LABELS = ": 4 is the enhancing tumour with release 2021, and the resection cavity with release 2024"

Missing = Literal["refuse", "zeros"]


class Case(NamedTuple):
    """A case: its name, the file of each sequence that it has, and its segmentation if it has one."""

    name: str
    files: dict[str, Path]
    segmentation: Path | None

    @property
    def patient(self) -> str:
        """The name without the time point: ``BraTS-GLI-00005`` for ``BraTS-GLI-00005-100``."""
        return re.sub(r"(-\d{5})-\d{3}$", r"\1", self.name)


def find_cases(root: Path, year: ReleaseYear, missing: Missing) -> list[Case]:
    """All cases below a folder, sorted by name.

    Args:
        root: The folder.
        year: The release, which names the files.
        missing: ``refuse`` raises an error for a case without the file of a sequence.

    Raises:
        FileNotFoundError: There is no case, or a case lacks a sequence.
        ValueError: Two folders hold the same case, or two files the same volume.
    """
    if not root.is_dir():
        raise UserFileNotFoundError(f"root {root} is not a folder")
    files: dict[str, Path] = {}
    for path in map(Path, walk_files(root, (".nii", ".gz")).values()):
        key = re.sub(r"\.nii(\.gz)?$", "", path.name)
        # the case's folder has the beginning of the names of its files
        if key.startswith(path.parent.name):
            if key in files and files[key].parent != path.parent:
                raise UserError(f"{path.parent} and {files[key].parent} are one case")
            if key in files:
                raise UserError(f"{path} and {files[key].name} are one volume: remove one of them")
            files[key] = path
    release = RELEASES[year]
    cases = _cases(files, release)
    if not cases:
        others = [other for other, its in RELEASES.items() if its.endings != release.endings and _cases(files, its)]
        found = f": its files are named as in release {others[0]}" if others else ""
        raise UserFileNotFoundError(f"root {root} holds no case named like {release.example}{found}")
    alone = [case for case in cases if len(case.files) < len(SEQUENCES)]
    if alone and missing == "refuse":
        absent = next(name for name in SEQUENCES if name not in alone[0].files)
        raise UserFileNotFoundError(
            f"{len(alone)} of the {len(cases)} cases below {root} lack a sequence, the first is {alone[0].name}, which "
            f"has no {alone[0].name}{release.endings[absent]}.nii.gz; missing: zeros takes zeros instead"
        )
    return cases


def _cases(files: Mapping[str, Path], release: Release) -> list[Case]:
    names = sorted({path.parent.name for path in files.values()})
    cases = []
    for name in names:
        its = {sequence: files[name + end] for sequence, end in release.endings.items() if name + end in files}
        if its:
            cases.append(Case(name, its, files.get(name + release.segmentation)))
    return cases


def check_volumes(cases: Sequence[Case]) -> list[VolumeHeader]:
    """Checks that the files of each case have one shape and one affine; reads headers only.

    Returns:
        The header of each case.

    Raises:
        ValueError: The files of a case differ, or one is damaged.
    """
    headers = []
    for case in cases:
        first, *others = [*case.files.values(), *([case.segmentation] if case.segmentation else [])]
        header = read_volume_header(first)
        for path in others:
            other = read_volume_header(path)
            if other.shape != header.shape:
                raise UserError(
                    f"the files of one case must have one shape, but {first} has {header.shape} and {path} has "
                    f"{other.shape}"
                )
            if not np.allclose(other.affine, header.affine, rtol=0, atol=TOLERANCE):
                raise UserError(
                    f"the files of one case must have one affine, but those of {first} and {path} differ by up to "
                    f"{np.abs(other.affine - header.affine).max():.3g}: resample one onto the other"
                )
        headers.append(header)
    return headers
