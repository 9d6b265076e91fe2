"""MRI of heads with tumours that needs no download: each head is drawn when the data are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from datamodules.base import PairedDataModule
from datamodules.reading.brats import CLASS_NAMES, PALETTE, SEQUENCES
from datamodules.scenes.brain import draw_phantom
from datamodules.serving.datasets import Splits, TensorPairs
from datamodules.serving.volumes import z_normalized
from distill.checks import check_at_least


class MRIPhantom(PairedDataModule):
    """Drawn heads with a tumour each, as T1, T1 after contrast agent, T2 and FLAIR show them.

    The batch is that of :class:`~datamodules.MissingModalityMRI`, without ``name``: ``t1n``, ``t1c``, ``t2w``, ``t2f``
    ``(N, 1, D, H, W)``, normalised within the brain, and ``target`` ``(N, D, H, W)`` with the classes background, NCR,
    ED and ET.

    A head is an ellipsoid of grey and white matter with ventricles, vessels and old lesions. Its tumour is oedema
    around an enhancing rim around a necrotic core; one in five does not enhance. What a sequence shows is as in MRI:
    the rim is bright in ``t1c`` alone, as vessels are; oedema is bright in ``t2f`` and ``t2w``, as old lesions are;
    fluid is bright in ``t2w`` and dark in ``t2f``; ``t1n`` shows the tumour weakly. So no single sequence tells all
    classes apart. Each sequence has a bias field, a brightness and Rician noise of its own.

    The seed, the split and the number of a head fix it; no head is in two splits.

    Args:
        n_train: The number of heads to train on.
        n_val: The number of heads to validate on.
        n_test: The number of heads to test on.
        size: The number of voxels along each side of a head's cube.
        noise: The standard deviation of the noise; the signal of white matter in ``t1n`` is 0.75.
        batch_size: Heads in a batch; ``None`` puts the whole split into one batch.
        **kwargs: Further arguments of :class:`~datamodules.base.PairedDataModule`.

    Raises:
        ValueError: An argument is out of its range.
    """

    class_names = CLASS_NAMES
    palette = PALETTE[: len(CLASS_NAMES)]

    def __init__(
        self,
        n_train: int = 40,
        n_val: int = 10,
        n_test: int = 40,
        size: int = 32,
        noise: float = 0.1,
        batch_size: int | None = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        check_at_least(1, n_train=n_train, n_val=n_val, n_test=n_test)
        check_at_least(8, size=size)
        check_at_least(0, noise=noise)
        self.sizes = n_train, n_val, n_test
        self.size = size
        self.noise = noise

    @property
    def num_classes(self) -> int:
        """Four."""
        return len(CLASS_NAMES)

    @property
    def modalities(self) -> tuple[str, ...]:
        """``t1n``, ``t1c``, ``t2w`` and ``t2f``."""
        return SEQUENCES

    def make_splits(self) -> Splits:
        """Draws heads 0, 1, 2 and so on of three series."""
        return Splits(*(self._draw(split, count) for split, count in enumerate(self.sizes)))

    def _draw(self, split: int, count: int) -> TensorPairs:
        heads = [draw_phantom((self.seed, split, number), self.size, self.noise) for number in range(count)]
        tensors = {
            name: torch.from_numpy(np.stack([z_normalized(head.sequences[name]) for head in heads])[:, None])
            for name in SEQUENCES
        }
        target = torch.from_numpy(np.stack([head.target for head in heads]).astype(np.int64))
        return TensorPairs({**tensors, "target": target})
