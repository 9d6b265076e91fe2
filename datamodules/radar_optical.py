"""Optical and radar images of ships, buoys and helicopters at sea (DS, Sec. 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.reading.folders import list_files, subfolders
from datamodules.seeded import SeededDataModule
from datamodules.serving.datasets import Splits, pixels_to_floats
from datamodules.serving.labelled_images import read_rgb
from datamodules.serving.sampling import SeededDataset, flip_where, uniform_numbers
from datamodules.serving.splitting import stratified_splits
from distill.checks import check_at_least, check_finite
from distill.errors import UserError, UserFileNotFoundError
from distill.outputs import Batch

CLASS_NAMES = (
    "cargo",
    "fishing vessel",
    "sailing vessel",
    "pleasure vessel",
    "HSC",
    "law vessel",
    "ocean buoy",
    "helicopter",
)
MODALITIES = ("optical", "radar")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")

Pair = tuple[int, Path, Path]
"""Class, optical image and radar image."""

PairKey = tuple[int, str]
"""Class and name, which the two images of a pair share."""


class RadarOptical(SeededDataModule):
    """Optical images for the teacher, and the radar images of the same targets for the student.

    Source: Si et al., DS, Sec. 5: 26,372 pairs from a station at sea, 8 classes, 224 x 224 pixels; the three channels
    of a radar image are three consecutive B-scans.

    - ``optical`` ``(N, 3, H, W)``, the teacher's, and ``radar`` ``(N, 3, H, W)``, the student's: from -1 to 1;
    - ``target`` ``(N,)``: 0 to 7, in the order of the paper's Table 1.

    Images may have 8 bits, 16 bits or floats. Of 16 bits, 0 is black and 65535 white; of floats, 0 and 1.
    ``radar_limits`` changes that for radar images, for example to ``(-40, 0)`` for decibels or to ``(0, 4095)`` for 12
    bits.

    The files are ``<root>/optical/<class>/<name>.<suffix>`` and ``<root>/radar/<class>/<name>.<suffix>``; both images
    of a pair have the same class and name. The folder of a class may also have the short name of the paper's Fig. 4, in
    any spelling: ``LawVessel``, ``law_vessel`` and ``law`` are the same class. If the root holds the folders ``train``
    and ``test``, these hold the two modalities, and ``test`` is the test split.

    Otherwise the seed splits the pairs at random; each split holds the classes in their shares of all pairs. The paper
    does not describe its split. The pairs are consecutive frames, and neighbours resemble each other. A fair test
    keeps all frames of one passage in one split: use the folders ``train`` and ``test`` for that.

    In every epoch, training flips both images of a pair with probability 1/2. The horizontal axis of a B-scan is the
    azimuth, so the flipped radar image shows the flipped scene.

    Args:
        root: The folder that holds the images.
        size: Height and width that all images are resized to.
        radar_limits: The values that become -1 and 1 in radar images of more than 8 bits; values beyond are cut off.
            ``None`` takes the whole range, and refuses floats beyond 0 and 1.
        val_size: The number of training pairs to validate on; ``None`` takes a tenth.
        test_size: The number of pairs to test on, if there is no folder ``test``; ``None`` takes a fifth.
        batch_size: Samples in a batch; ``None`` puts the whole split into one batch.
        **kwargs: Further arguments of :class:`~datamodules.seeded.SeededDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a folder is none of the classes, two images have
            one name, or the splits leave no pair to train on. From a loader: a file is damaged.
        FileNotFoundError: From ``setup``: a folder is missing, or an image has no partner.
    """

    class_names = CLASS_NAMES
    normalization = dict.fromkeys(MODALITIES, ((0.5,), (0.5,)))

    def __init__(
        self,
        root: str | Path,
        size: int = 224,
        radar_limits: tuple[float, float] | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        batch_size: int | None = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        check_at_least(1, size=size, val_size=val_size, test_size=test_size)
        self.root = Path(root)
        if radar_limits is not None:
            check_finite(radar_limits_low=radar_limits[0], radar_limits_high=radar_limits[1])
            low, high = radar_limits
            if low >= high:
                raise UserError(f"radar_limits must be two values, the smaller one first, got {low} and {high}")
        self.size = size
        self.radar_limits = None if radar_limits is None else (radar_limits[0], radar_limits[1])
        self.val_size = val_size
        self.test_size = test_size

    @property
    def num_classes(self) -> int:
        """Eight."""
        return len(CLASS_NAMES)

    @property
    def modalities(self) -> tuple[str, ...]:
        """``optical`` and ``radar``."""
        return MODALITIES

    def make_splits(self) -> Splits:
        """Finds the pairs and splits them."""
        parts = [self.root / part for part in ("train", "test")]
        if any(folder.is_dir() for folder in parts):
            train, test = map(find_pairs, parts)
        else:
            train, test = find_pairs(self.root), []
        pairs = [*train, *test]
        labels = np.array([label for label, *_ in pairs])
        rng = np.random.default_rng(self.seed)
        positions = stratified_splits(labels, len(test), self.val_size, self.test_size, rng)
        return Splits(*(ImagePairs([pairs[at] for at in part], self.size, self.radar_limits) for part in positions))


class ImagePairs(SeededDataset):
    """A split: ``optical``, ``radar``, ``target`` and ``index``.

    A plain position gives the pair without augmentation, a :class:`~datamodules.serving.sampling.SeededIndex` gives it
    with the flip of its seed.

    Args:
        pairs: Class, optical image and radar image.
        size: Height and width of the images.
        radar_limits: As in :class:`RadarOptical`.
    """

    def __init__(self, pairs: Sequence[Pair], size: int, radar_limits: tuple[float, float] | None = None) -> None:
        self.labels = torch.tensor([label for label, *_ in pairs])
        # arrays of strings: workers share their memory, but would copy a list's, whose elements count references
        self.paths = {name: np.array([str(pair[1 + at]) for pair in pairs]) for at, name in enumerate(MODALITIES)}
        # class and name, which both images share
        self.names = np.array(["/".join(Path(path).with_suffix("").parts[-2:]) for path in self.paths["radar"]])
        self.size = size
        self.limits = {"optical": None, "radar": radar_limits}

    def __len__(self) -> int:
        return len(self.labels)

    def read_batch(self, positions: NDArray[np.int64], seeds: Sequence[int]) -> Batch:
        """Reads the images, and flips both of a pair or none."""
        numbers = uniform_numbers([[seed] for seed in seeds], 1)[:, 0] if seeds else None
        batch = {"target": self.labels[positions]}
        for name, paths in self.paths.items():
            images = np.stack([read_rgb(Path(path), self.size, limits=self.limits[name]) for path in paths[positions]])
            if numbers is not None:
                images = flip_where(numbers, images)
            batch[name] = pixels_to_floats(torch.from_numpy(images))
        return batch


def find_pairs(folder: Path) -> list[Pair]:
    """Class, optical and radar image of all pairs in a folder, sorted by class and name.

    Raises:
        FileNotFoundError: A modality or a class is missing, or an image has no partner.
        ValueError: A folder is none of the classes, or two images of a modality have one name.
    """
    optical, radar = (_find_images(folder, modality) for modality in MODALITIES)
    alone = [
        _described(files, other, missing)
        for files, other, missing in ((optical, radar, "radar"), (radar, optical, "optical"))
        if files.keys() - other.keys()
    ]
    if alone:
        raise UserFileNotFoundError(f"{folder} lacks {', and '.join(alone)}")
    return [(key[0], optical[key], radar[key]) for key in sorted(optical)]


def _described(files: dict[PairKey, Path], other: dict[PairKey, Path], missing: str) -> str:
    alone = [files[key] for key in sorted(files.keys() - other.keys())]
    examples = ", ".join(str(Path(*path.parts[-3:])) for path in alone[:3])
    return f"the {missing} images to {len(alone)} of {len(files)}, {examples}" + (" and so on" if alone[3:] else "")


def _find_images(folder: Path, modality: str) -> dict[PairKey, Path]:
    """The images of a modality by class and name."""
    if not (folder / modality).is_dir():
        raise UserFileNotFoundError(
            f"{folder} holds no folder {modality}: root, or its folders train and test, must hold optical and radar, "
            "and these a folder of images a class"
        )
    images: dict[PairKey, Path] = {}
    for class_folder in subfolders(folder / modality):
        label = _class_index(class_folder)
        for path in list_files(class_folder, "", "").values():
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if (label, path.stem) in images:
                raise UserError(f"{path} and {images[label, path.stem]} are two images of one name")
            images[label, path.stem] = path
    absent = [name for label, name in enumerate(CLASS_NAMES) if label not in {key[0] for key in images}]
    if absent:
        raise UserFileNotFoundError(f"{folder / modality} holds no images of the class {absent[0]}")
    return images


def _class_index(folder: Path) -> int:
    indices = {_normalized(name): label for label, name in enumerate(CLASS_NAMES)}
    try:
        return indices[_normalized(folder.name)]
    except KeyError:
        raise UserError(f"the folder {folder} is none of the classes {', '.join(CLASS_NAMES)}") from None


def _normalized(name: str) -> str:
    """The name of a class in lower case, without spaces, signs and the word "vessel"."""
    return re.sub("[^a-z]", "", name.lower()).removesuffix("vessel")
