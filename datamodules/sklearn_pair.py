"""scikit-learn pair (PSSM, Sec. 4.3; NTDH, Sec. IV-A)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import make_classification

from datamodules.base import PairedDataModule
from datamodules.serving.datasets import Splits, TensorPairs, check_counts
from distill.errors import UserError

CLASSES = 8
DECISIVE = 20
SEEN = 10
NOISE = 15


class SklearnPair(PairedDataModule):
    """Two views of the features that :func:`sklearn.datasets.make_classification` makes for eight classes.

    Source: "Investigating the Impact of Data Distribution Shifts on Cross-Modal Knowledge Distillation" (PSSM),
    Sec. 4.3 and App. B.2; "Non-target Divergence Hypothesis" (NTDH, Chen et al.), Sec. IV-A. Of 20 informative
    features, standardised by the training samples:

    - ``x_b`` ``(N, 25)``, the student's: ten features, drawn by the seed, and 15 values of standard normal noise;
    - ``x_a`` ``(N, 25)``, the teacher's: ten features, the share ``1 - gamma`` of them ``x_b``'s and the others ones
      that ``x_b`` lacks, and 15 noise values of its own;
    - ``target`` ``(N,)``: 0 to 7.

    For one seed gamma changes columns of ``x_a`` and nothing else. The papers have training and test samples only; the
    validation samples are more of the same draw, so that other sizes give other samples. Nothing is read or downloaded.

    The papers leave the other arguments of ``make_classification`` open. Here no feature is redundant or repeated, a
    class is one cluster, ``class_sep`` is 1 and ``flip_y`` 0.01 (scikit-learn's defaults). A network of 1,368
    parameters (25-40-8; SGD 0.1, 200 full-batch steps, mean of 20 seeds) then reaches 39.4 % on ``x_b`` and 39.4 to
    39.8 % on ``x_a`` at any gamma; the papers have 39.6 %. Two clusters a class give 27 %, ``class_sep=0.5`` 22 %.

    Args:
        gamma: 0 (the modalities share all ten features) to 1 (none). ``10 * gamma`` is rounded to whole features,
            halves to even: 0.25 replaces two, 0.75 eight.
        train_size: Training samples; the papers' 500.
        val_size: Validation samples.
        test_size: Test samples; the papers' 1000.
        seed: Fixes all samples and which features are seen.
        batch_size: ``None`` trains on the full batch.
        num_workers: Processes that load data.
        steps_per_epoch: After how many batches an epoch ends, instead of after one pass.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        gamma: float = 0.0,
        train_size: int = 500,
        val_size: int = 1000,
        test_size: int = 1000,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__(seed, batch_size, num_workers, steps_per_epoch=steps_per_epoch)
        if not 0 <= gamma <= 1:
            raise UserError(f"gamma must be from 0 to 1, got {gamma}")
        check_counts(train_size=train_size, val_size=val_size, test_size=test_size)
        self.gamma = gamma
        self.train_size = train_size
        self.val_size = val_size
        self.test_size = test_size

    @property
    def num_classes(self) -> int:
        """Eight."""
        return CLASSES

    @property
    def modalities(self) -> tuple[str, ...]:
        """``x_a`` and ``x_b``."""
        return ("x_a", "x_b")

    def make_splits(self) -> Splits:
        """Draws all samples at once, since ``make_classification`` has no other way to draw from one distribution."""
        count = self.train_size + self.val_size + self.test_size
        features, target = make_classification(
            count,
            n_features=DECISIVE,
            n_informative=DECISIVE,
            n_redundant=0,
            n_classes=CLASSES,
            n_clusters_per_class=1,
            random_state=self.seed,
        )
        seen_in_training = features[: self.train_size]
        features = (features - seen_in_training.mean(axis=0)) / seen_in_training.std(axis=0)

        rng = np.random.default_rng(self.seed)
        order = rng.permutation(DECISIVE)
        noise_b, noise_a = rng.standard_normal((2, count, NOISE))
        replaced = round(self.gamma * SEEN)
        seen_by_a = np.r_[order[: SEEN - replaced], order[SEEN : SEEN + replaced]]
        pairs = TensorPairs(
            {
                "x_a": torch.tensor(np.hstack([features[:, seen_by_a], noise_a])).float(),
                "x_b": torch.tensor(np.hstack([features[:, order[:SEEN]], noise_b])).float(),
                "target": torch.tensor(target).long(),
            }
        )
        train, val, test = torch.split(torch.arange(count), [self.train_size, self.val_size, self.test_size])
        return Splits(pairs.select(train), pairs.select(val), pairs.select(test))
