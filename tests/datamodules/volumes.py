"""Small trees of MRI in the layout and the format of the BraTS challenges."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from datamodules.reading.brats import RELEASES, SEQUENCES, ReleaseYear

AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
"""That of BraTS: the first axis runs to the left, the second to the back."""

NAMES = ("BraTS-GLI-00000-000", "BraTS-GLI-00002-000", "BraTS-GLI-00002-001", "BraTS-GLI-00003-000")
SHAPE = (14, 12, 9)
"""Along the file's axes, of which the first two are the longest, as in 240 x 240 x 155."""


def write_brats(
    root: Path, year: ReleaseYear = 2023, names: tuple[str, ...] = NAMES, shape: tuple[int, int, int] = SHAPE
) -> Path:
    """Writes cases with a brain in a background of 0, and a tumour of all labels in it."""
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        brain = np.zeros(shape, bool)
        brain[2:-2, 2:-2, 2:-2] = True
        for sequence in SEQUENCES:
            values = np.where(brain, rng.integers(100, 3000, shape), 0).astype(np.int16)
            write_volume(root / name / f"{name}{RELEASES[year].endings[sequence]}.nii.gz", values)
        labels = np.zeros(shape, np.uint8)
        labels[3:-3, 3:-3, 3:-3] = rng.choice(RELEASES[year].labels, tuple(length - 6 for length in shape))
        write_volume(root / name / f"{name}{RELEASES[year].segmentation}.nii.gz", labels)
    return root


def write_volume(path: Path, values: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)  # type: ignore[no-untyped-call]
