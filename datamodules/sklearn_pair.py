"""scikit-learn pair (PSSM, Sec. 4.3; NTDH, Sec. IV-A)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import make_classification

from datamodules.base import PairedDataModule
from datamodules.serving.datasets import Splits, TensorPairs
from distill.checks import check_at_least, check_share

CLASSES = 8
INFORMATIVE_DIMS = 20
VIEW_DIMS = 10  # informative features in each modality
NOISE_DIMS = 15  # in each modality


class SklearnPair(PairedDataModule):
    """Two views of features that :func:`sklearn.datasets.make_classification` makes for eight classes.

    Source: "Investigating the Impact of Data Distribution Shifts on Cross-Modal Knowledge Distillation" (PSSM),
    Sec. 4.3 and App. B.2; "Non-target Divergence Hypothesis" (NTDH, Chen et al.), Sec. IV-A. There are 20
    informative features, standardised by the training samples:

    - ``x_b`` ``(N, 25)``, the student's: ten features, drawn by the seed, and 15 values of standard normal noise;
    - ``x_a`` ``(N, 25)``, the teacher's: ten features and 15 noise values of its own. It shares the part ``1 - gamma``
      of its features with ``x_b``; ``x_b`` lacks the others;
    - ``target`` ``(N,)``: 0 to 7.

    With one seed, gamma changes columns of ``x_a`` and nothing else. The papers have training and test samples only.
    All samples come from one call of ``make_classification``, so other sizes give other samples. Nothing is read or
    downloaded.

    The papers do not give the other arguments of ``make_classification``. Here no feature is redundant or repeated, a
    class is one cluster, ``class_sep`` is 1 and ``flip_y`` 0.01 (scikit-learn's defaults). ``docs/data.md`` shows
    that a small network then has the papers' accuracy.

    Args:
        gamma: From 0 (the modalities share all ten features) to 1 (they share none). ``10 * gamma`` is rounded to whole
            features, halves to even: 0.25 replaces two features, 0.75 replaces eight.
        train_size: Training samples; the papers' 500.
        val_size: Validation samples.
        test_size: Test samples; the papers' 1000.
        **kwargs: Arguments of :class:`~datamodules.base.PairedDataModule`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        gamma: float = 0.0,
        train_size: int = 500,
        val_size: int = 1000,
        test_size: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_share(gamma=gamma)
        check_at_least(1, train_size=train_size, val_size=val_size, test_size=test_size)
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
        """Draws all samples at once: two calls of ``make_classification`` draw from two distributions."""
        count = self.train_size + self.val_size + self.test_size
        features, target = make_classification(
            count,
            n_features=INFORMATIVE_DIMS,
            n_informative=INFORMATIVE_DIMS,
            n_redundant=0,
            n_classes=CLASSES,
            n_clusters_per_class=1,
            random_state=self.seed,
        )
        train_features = features[: self.train_size]
        features = (features - train_features.mean(axis=0)) / train_features.std(axis=0)

        rng = np.random.default_rng(self.seed)
        order = rng.permutation(INFORMATIVE_DIMS)
        noise_b, noise_a = rng.standard_normal((2, count, NOISE_DIMS))
        replaced = round(self.gamma * VIEW_DIMS)
        columns_a = np.r_[order[: VIEW_DIMS - replaced], order[VIEW_DIMS : VIEW_DIMS + replaced]]
        pairs = TensorPairs(
            {
                "x_a": torch.tensor(np.hstack([features[:, columns_a], noise_a])).float(),
                "x_b": torch.tensor(np.hstack([features[:, order[:VIEW_DIMS]], noise_b])).float(),
                "target": torch.tensor(target).long(),
            }
        )
        train, val, test = torch.split(torch.arange(count), [self.train_size, self.val_size, self.test_size])
        return Splits(pairs.select(train), pairs.select(val), pairs.select(test))
