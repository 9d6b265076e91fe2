"""Miniature data sets of random images with a class each, in the exact formats of the real ones."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100, STL10

from datamodules.radar_optical import CLASS_NAMES
from tests.datamodules.trees import save, write

Bytes = NDArray[np.uint8]
SYNSETS = {"n01443537": "goldfish, Carassius auratus", "n02124075": "Egyptian cat", "n07873807": "pizza, pizza pie"}


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 20) -> tuple[Bytes, list[int]]:
    """Five batches and a test batch of ``count`` images each; torchvision takes their checksums for the right ones.

    Returns:
        All images ``(6 * count, 3, 32, 32)`` and labels, the test batch last.
    """
    rng, folder = np.random.default_rng(0), root / CIFAR10.base_folder
    files = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    images = random_images(rng, 6 * count, 32)
    labels = [number % 10 for number in range(6 * count)]
    sums = {}
    for at, name in enumerate(files):
        part = slice(at * count, (at + 1) * count)
        content = {"data": images[part].reshape(count, -1), "labels": labels[part], "batch_label": name}
        sums[name] = _pickled(folder / name, content)
    sums["batches.meta"] = _pickled(folder / "batches.meta", {"label_names": [f"class {k}" for k in range(10)]})
    _expect(monkeypatch, CIFAR10, sums)
    return images, labels


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 300) -> tuple[Bytes, list[int]]:
    """``count`` images to train on and 100 to test; as :func:`write_cifar10`."""
    rng, folder = np.random.default_rng(0), root / CIFAR100.base_folder
    images = random_images(rng, count + 100, 32)
    labels = [number % 100 for number in range(count + 100)]
    sums = {}
    for name, part in {"train": slice(count), "test": slice(count, None)}.items():
        flat = images[part].reshape(-1, 3072)
        content = {"data": flat, "fine_labels": labels[part], "coarse_labels": [0] * len(flat)}
        sums[name] = _pickled(folder / name, content)
    names = {"fine_label_names": [f"class {k}" for k in range(100)], "coarse_label_names": ["all"]}
    sums["meta"] = _pickled(folder / "meta", names)
    _expect(monkeypatch, CIFAR100, sums)
    return images, labels


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 30) -> tuple[Bytes, list[int]]:
    """``count`` images to train on and 10 to test, column by column as STL-10 has them; as :func:`write_cifar10`."""
    rng, folder = np.random.default_rng(0), root / STL10.base_folder
    images = random_images(rng, count + 10, 96)
    labels = [number % 10 for number in range(count + 10)]
    folder.mkdir(parents=True)
    sums = {}
    for name, part in {"train": slice(count), "test": slice(count, None), "unlabeled": slice(1)}.items():
        sums[f"{name}_X.bin"] = _written(folder / f"{name}_X.bin", images[part].transpose(0, 1, 3, 2).tobytes())
        sums[f"{name}_y.bin"] = _written(folder / f"{name}_y.bin", bytes(label + 1 for label in labels[part]))
    write(folder / "class_names.txt", "".join(f"class {k}\n" for k in range(10)))
    _expect(monkeypatch, STL10, sums)
    return images, labels


def write_tiny_imagenet(root: Path, count: int = 10) -> Path:
    """Three of the 200 classes, ``count`` images each to train on, every fifth grey, and six in ``val``."""
    rng, folder = np.random.default_rng(0), root / "tiny-imagenet-200"
    write(folder / "wnids.txt", "".join(f"{synset}\n" for synset in SYNSETS))
    write(folder / "words.txt", "".join(f"{synset}\t{words}\n" for synset, words in SYNSETS.items()))
    for synset in SYNSETS:
        for number, image in enumerate(random_images(rng, count, 64)):
            pixels = image[0] if number % 5 == 0 else image.transpose(1, 2, 0)
            save(folder / "train" / synset / "images" / f"{synset}_{number}.JPEG", pixels)
    lines = []
    for number, image in enumerate(random_images(rng, 6, 64)):
        save(folder / "val" / "images" / f"val_{number}.JPEG", image.transpose(1, 2, 0))
        lines.append(f"val_{number}.JPEG\t{[*SYNSETS][number % 3]}\t0\t32\t44\t62\n")
    write(folder / "val" / "val_annotations.txt", "".join(lines))
    save(folder / "test" / "images" / "test_0.JPEG", image.transpose(1, 2, 0))
    return root


def write_image_folder(root: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 10) -> Path:
    """``train`` and ``val`` with a folder a class, of ``count`` and of two images of several sizes."""
    rng = np.random.default_rng(0)
    for part, images in {"train": count, "val": 2}.items():
        for name in classes:
            for number in range(images):
                pixels = rng.integers(0, 256, (30 + number, 50, 3), dtype=np.uint8)
                save(root / part / name / f"{number}.png", pixels)
    return root


def write_radar_optical(root: Path, count: int = 5, side: int = 12) -> Path:
    """``count`` pairs of each of the eight classes."""
    rng = np.random.default_rng(0)
    for name in CLASS_NAMES:
        for number in range(count):
            for modality, suffix in (("optical", "jpg"), ("radar", "png")):
                pixels = random_images(rng, 1, side)[0].transpose(1, 2, 0)
                save(root / modality / name / f"{number:04d}.{suffix}", pixels)
    return root


def random_images(rng: Generator, count: int, side: int) -> Bytes:
    """``(count, 3, side, side)``."""
    return rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def _pickled(path: Path, content: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return _written(path, pickle.dumps(content))


def _written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def _expect(monkeypatch: pytest.MonkeyPatch, dataset: Any, sums: dict[str, str]) -> None:
    """Puts the checksums of these files in the places of the real ones."""
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, files, [[name, sums[name]] for name, _ in getattr(dataset, files)])
    if hasattr(dataset, "meta"):
        monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": sums[dataset.meta["filename"]]})
