"""Synthetic Gaussian pair (PSSM, Sec. 4.2)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from datamodules.base import PairedDataModule
from datamodules.serving.datasets import Splits, TensorPairs, check_counts
from distill.errors import UserError

DECISIVE = 20
SEEN = 10
NOISE = 15
SHARED_AT_LEVEL = {1: 10, 2: 8, 3: 6, 4: 4, 5: 2, 6: 0}


class GaussianPair(PairedDataModule):
    """Two views of twenty hidden dimensions that decide between two classes.

    Source: "Investigating the Impact of Data Distribution Shifts on Cross-Modal Knowledge Distillation" (PSSM),
    Sec. 4.2 and App. B.1, after Lopez-Paz et al. 2016. The hidden ``x ~ N(0, I)`` has 20 dimensions, the label is
    ``x . a > 0`` with one ``a ~ N(0, I)`` for all splits.

    - ``x_b`` ``(N, 25)``, the student's: hidden dimensions 0-9 and 15 values of standard normal noise;
    - ``x_a`` ``(N, 25)``, the teacher's: ten hidden dimensions, of which 10, 8, 6, 4, 2, 0 are ``x_b``'s at levels
      1 to 6 and the others are taken from dimensions 10-19, and 15 noise values of its own;
    - ``target`` ``(N,)``: 0 or 1.

    For one seed the level changes columns of ``x_a`` and nothing else. The paper has training and test samples only;
    the validation samples are drawn after those, with the same ``a``. Nothing is read or downloaded.

    Args:
        level: 1 (the modalities share all decisive dimensions) to 6 (none).
        train_size: Training samples; the paper's 200.
        val_size: Validation samples.
        test_size: Test samples; the paper's 1000.
        seed: Fixes ``a`` and all samples.
        batch_size: ``None`` trains on the full batch, as the paper does.
        num_workers: Processes that load data.
        steps_per_epoch: After how many batches an epoch ends, instead of after one pass.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        level: int = 1,
        train_size: int = 200,
        val_size: int = 1000,
        test_size: int = 1000,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__(seed, batch_size, num_workers, steps_per_epoch=steps_per_epoch)
        if level not in SHARED_AT_LEVEL:
            raise UserError(f"level must be a whole number from 1 to 6, got {level}")
        check_counts(train_size=train_size, val_size=val_size, test_size=test_size)
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
        """Draws training, test and validation samples, in this order: the first two do not depend on ``val_size``."""
        generator = torch.Generator().manual_seed(self.seed)
        boundary = torch.randn(DECISIVE, generator=generator)
        train = self._draw(self.train_size, boundary, generator)
        test = self._draw(self.test_size, boundary, generator)
        return Splits(train, self._draw(self.val_size, boundary, generator), test)

    def _draw(self, count: int, boundary: Tensor, generator: Generator) -> TensorPairs:
        hidden = torch.randn(count, DECISIVE, generator=generator)
        noise_b = torch.randn(count, NOISE, generator=generator)
        noise_a = torch.randn(count, NOISE, generator=generator)
        shared = SHARED_AT_LEVEL[self.level]
        return TensorPairs(
            {
                "x_a": torch.cat([hidden[:, :shared], hidden[:, SEEN : 2 * SEEN - shared], noise_a], dim=1),
                "x_b": torch.cat([hidden[:, :SEEN], noise_b], dim=1),
                "target": (hidden @ boundary > 0).long(),
            }
        )
