"""Optical and radar images of ships and what else floats or flies over the sea (DS, Sec. 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from datamodules.drawn import DrawnDataModule
from datamodules.reading.image_files import subfolders
from datamodules.serving.datasets import Batch, BatchedDataset, SplitName, Splits, check_counts
from datamodules.serving.labelled_images import read_rgb
from datamodules.serving.sampling import SeededIndex, as_floats, flipped, split_seeds, uniform_numbers
from datamodules.serving.splitting import stratified_splits
from datamodules.serving.unreadable import OnError
from distill.errors import UserError, UserFileNotFoundError

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
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")


class RadarOptical(DrawnDataModule):
    """Optical images for the teacher, and the radar images of the same targets for the student.

    Source: Si et al., DS, Sec. 5: 26,372 pairs from a station at sea, 8 classes, 224 x 224 pixels; the three channels
    of a radar image are three consecutive B-scans.

    - ``optical`` ``(N, 3, H, W)``, the teacher's, and ``radar`` ``(N, 3, H, W)``, the student's: from -1 to 1;
    - ``target`` ``(N,)``: 0 to 7, in the order of the paper's Table 1.

    The folders are ``<root>/optical/<class>/<name>.<suffix>`` and ``<root>/radar/<class>/<name>.<suffix>``, where the
    two images of a pair have the same class and name. A class folder may be called by the short names of the paper's
    Fig. 4 as well, in any spelling: ``LawVessel``, ``law_vessel`` and ``law`` are one. Where root holds ``train`` and
    ``test``, those hold the two modalities, and ``test`` is the test split.

    Otherwise the seed splits the pairs, since the paper does not say how it did; what is split off has the classes in
    the shares of the whole. The pairs are consecutive frames, of which neighbours look alike: folders that keep the
    passages of a target together test more honestly.

    Training mirrors both images of every other pair, drawn anew in every epoch. The horizontal axis of a B-scan is the
    azimuth, so the mirrored radar image is that of the mirrored scene.

    Args:
        root: The folder that holds the images.
        size: Height and width that all images are resized to.
        val_size: Pairs split off from training; ``None`` takes a tenth.
        test_size: Pairs to test on where there is no ``test`` folder; ``None`` takes a fifth.
        seed: Fixes the splits.
        batch_size: ``None`` trains on the full batch.
        num_workers: Processes that load data.
        predict_on: The split that ``predict`` sees, not augmented.
        on_error: Whether a damaged training file ends a fit (``raise``) or the next readable sample takes its place
            (``skip``).

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a folder is none of the classes, two images have
            one name, or the splits leave no pair to train on. From a loader: a file is damaged.
        FileNotFoundError: From ``setup``: a folder is not there, or an image has no partner.
    """

    class_names = CLASS_NAMES

    def __init__(
        self,
        root: str | Path,
        size: int = 224,
        val_size: int | None = None,
        test_size: int | None = None,
        seed: int = 0,
        batch_size: int | None = 64,
        num_workers: int = 0,
        predict_on: SplitName = "test",
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(seed, batch_size, num_workers, predict_on, on_error)
        sizes = {"size": size, "val_size": val_size, "test_size": test_size}
        check_counts(**{name: count for name, count in sizes.items() if count is not None})
        self.root = Path(root)
        self.size = size
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
        """Finds the pairs and splits them; only training's are mirrored."""
        divided = [self.root / part for part in ("train", "test")]
        if any(folder.is_dir() for folder in divided):
            train, test = map(find_pairs, divided)
        else:
            train, test = find_pairs(self.root), []
        pairs = [*train, *test]
        labels = np.array([label for label, *_ in pairs])
        rng = np.random.default_rng(self.seed)
        positions = stratified_splits(labels, len(test), self.val_size, self.test_size, rng)
        return Splits(*(ImagePairs([pairs[at] for at in part], self.size) for part in positions))


class ImagePairs(BatchedDataset):
    """A split: ``optical``, ``radar``, ``target`` and ``index``.

    A plain position gives the pair as it is, a :class:`~datamodules.serving.sampling.SeededIndex` that draw's
    augmentation.

    Args:
        pairs: Class, optical image and radar image.
        size: Height and width of what is read.
    """

    def __init__(self, pairs: Sequence[Pair], size: int) -> None:
        self.labels = torch.tensor([label for label, *_ in pairs])
        # arrays of strings, which workers share, where lists are copied as their elements are counted
        self.paths = {name: np.array([str(pair[1 + at]) for pair in pairs]) for at, name in enumerate(MODALITIES)}
        self.size = size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int | SeededIndex]) -> Batch:
        """A batch of draws, or one of plain positions.

        Raises:
            ValueError: A file is damaged.
        """
        index, draws = split_seeds(indices)
        mirror = uniform_numbers([[seed] for seed in draws], 1)[:, 0] if draws else None
        batch = {}
        for name, paths in self.paths.items():
            images = np.stack([read_rgb(Path(path), self.size) for path in paths[index]])
            batch[name] = as_floats(images if mirror is None else flipped(images, mirror))
        return {**batch, "target": self.labels[index], "index": torch.from_numpy(index)}


Pair = tuple[int, Path, Path]


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


def _described(files: dict[Key, Path], other: dict[Key, Path], missing: str) -> str:
    alone = [files[key] for key in sorted(files.keys() - other.keys())]
    shown = ", ".join(str(Path(*path.parts[-3:])) for path in alone[:3])
    return f"the {missing} images to {len(alone)} of {len(files)}, {shown}" + (" and so on" if alone[3:] else "")


Key = tuple[int, str]


def _find_images(folder: Path, modality: str) -> dict[Key, Path]:
    """The images of a modality by class and name."""
    if not (folder / modality).is_dir():
        raise UserFileNotFoundError(
            f"{folder} holds no folder {modality}: root, or its folders train and test, must hold optical and radar, "
            "and these a folder of images a class"
        )
    images: dict[Key, Path] = {}
    for place in subfolders(folder / modality):
        label = _class_of(place)
        for path in sorted(place.iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            if (label, path.stem) in images:
                raise UserError(f"{path} and {images[label, path.stem]} are two images of one name")
            images[label, path.stem] = path
    absent = [name for label, name in enumerate(CLASS_NAMES) if label not in {key[0] for key in images}]
    if absent:
        raise UserFileNotFoundError(f"{folder / modality} holds no images of the class {absent[0]}")
    return images


def _class_of(folder: Path) -> int:
    names = {_plain(name): label for label, name in enumerate(CLASS_NAMES)}
    try:
        return names[_plain(folder.name)]
    except KeyError:
        raise UserError(f"the folder {folder} is none of the classes {', '.join(CLASS_NAMES)}") from None


def _plain(name: str) -> str:
    """A class's name without what spellings differ in."""
    return re.sub("[^a-z]", "", name.lower()).removesuffix("vessel")
