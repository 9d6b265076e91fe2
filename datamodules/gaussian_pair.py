"""Synthetic Gaussian pair (PSSM, Sec. 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from datamodules.base import PairedDataModule
from datamodules.serving.datasets import Splits, TensorPairs
from distill.checks import check_at_least, check_option

HIDDEN_DIMS = 20
VIEW_DIMS = 10  # hidden dimensions in each modality
NOISE_DIMS = 15  # in each modality
SHARED_AT_LEVEL = {1: 10, 2: 8, 3: 6, 4: 4, 5: 2, 6: 0}


class GaussianPair(PairedDataModule):
    """Two views of twenty hidden dimensions, which decide between two classes.

    Source: "Investigating the Impact of Data Distribution Shifts on Cross-Modal Knowledge Distillation" (PSSM),
    Sec. 4.2 and App. B.1, after Lopez-Paz et al. 2016. The hidden ``x ~ N(0, I)`` has 20 dimensions. The label
    is ``x . a > 0``, with one ``a ~ N(0, I)`` for all splits.

    - ``x_b`` ``(N, 25)``, the student's: hidden dimensions 0-9 and 15 values of standard normal noise;
    - ``x_a`` ``(N, 25)``, the teacher's: ten hidden dimensions and 15 noise values of its own. At levels 1 to 6 it
      shares 10, 8, 6, 4, 2 and 0 hidden dimensions with ``x_b``; the others are dimensions 10-19;
    - ``target`` ``(N,)``: 0 or 1.

    With one seed, the level changes columns of ``x_a`` and nothing else. The paper has training and test samples only;
    the validation samples are drawn after them, with the same ``a``. Nothing is read or downloaded.

    Args:
        level: From 1 (the modalities share all ten hidden dimensions) to 6 (they share none).
        train_size: Training samples; the paper's 200.
        val_size: Validation samples.
        test_size: Test samples; the paper's 1000.
        **kwargs: Arguments of :class:`~datamodules.base.PairedDataModule`. The paper trains on the full batch.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        level: int = 1,
        train_size: int = 200,
        val_size: int = 1000,
        test_size: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_option("level", level, SHARED_AT_LEVEL)
        check_at_least(1, train_size=train_size, val_size=val_size, test_size=test_size)
        self.level = level
        self.train_size = train_size
        self.val_size = val_size
        self.test_size = test_size

    @property
    def num_classes(self) -> int:
        """Two."""
        return 2

    @property
    def modalities(self) -> tuple[str, ...]:
        """``x_a`` and ``x_b``."""
        return ("x_a", "x_b")

    def make_splits(self) -> Splits:
        """Draws training, test and validation samples, in this order: ``val_size`` changes no other split."""
        generator = torch.Generator().manual_seed(self.seed)
        boundary = torch.randn(HIDDEN_DIMS, generator=generator)
        train = self._draw(self.train_size, boundary, generator)
        test = self._draw(self.test_size, boundary, generator)
        return Splits(train, self._draw(self.val_size, boundary, generator), test)

    def _draw(self, count: int, boundary: Tensor, generator: Generator) -> TensorPairs:
        hidden = torch.randn(count, HIDDEN_DIMS, generator=generator)
        noise_b = torch.randn(count, NOISE_DIMS, generator=generator)
        noise_a = torch.randn(count, NOISE_DIMS, generator=generator)
        shared = SHARED_AT_LEVEL[self.level]
        return TensorPairs(
            {
                "x_a": torch.cat([hidden[:, :shared], hidden[:, VIEW_DIMS : 2 * VIEW_DIMS - shared], noise_a], dim=1),
                "x_b": torch.cat([hidden[:, :VIEW_DIMS], noise_b], dim=1),
                "target": (hidden @ boundary > 0).long(),
            }
        )
