"""Random training samples: a sampler gives each one a seed, and a data set makes the sample from that seed."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from datamodules.reading.arrays import Floats, Pixels
from datamodules.serving.datasets import BatchedDataset
from distill.outputs import Batch


class SeededIndex(NamedTuple):
    """A sample's position in its data set, and the seed of all that is random about it in this epoch."""

    position: int
    seed: int


class SeededSampler(Sampler[SeededIndex]):
    """All samples in random order, each with a seed for its augmentation.

    Order and seeds are drawn in the main process, so they do not depend on the number of workers. Lightning numbers the
    epochs through :meth:`set_epoch`. Order and seeds then follow from that number and the seed of ``seed_everything``
    (0 where it was not called, as in Lightning's own distributed sampler). All processes of a run therefore draw the
    same order, whatever their random states are, and a resumed run sees the samples of an uninterrupted one. Where no
    number was given, as in a plain loop over a loader, order and seeds follow torch's global random state.

    Args:
        length: How many samples there are.
        epoch: The number of the first epoch, if it is known: workers fetch batches before ``set_epoch`` is called.
    """

    def __init__(self, length: int, epoch: int | None = None) -> None:
        self.length = length
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[SeededIndex]:
        if self.epoch is None:
            entropy = [int(torch.randint(2**63 - 1, ()))]
        else:
            entropy = [int(os.environ.get("PL_GLOBAL_SEED", 0)), self.epoch]
        rng = np.random.default_rng(entropy)
        order = rng.permutation(self.length)
        seeds = rng.integers(2**32, size=self.length)
        return map(SeededIndex, order.tolist(), seeds.tolist())


class SeededDataset(BatchedDataset):
    """Base of the data sets whose samples are random where they are asked for with a seed.

    A plain position returns the sample as it is, a :class:`SeededIndex` the sample as its seed changes it. All indices
    of a batch are of one kind. A subclass reads the batch; ``index`` is added to it.
    """

    @abstractmethod
    def read_batch(self, positions: NDArray[np.int64], seeds: Sequence[int]) -> Batch:
        """The samples at these positions.

        Args:
            positions: ``(N,)``.
            seeds: One for each sample; empty where the samples are asked for as they are.
        """

    def __getitems__(self, indices: Sequence[int | SeededIndex]) -> Batch:
        """The samples at these indices, as one batch.

        Raises:
            ValueError: A file is damaged.
        """
        positions = np.array([position_of(index) for index in indices], np.int64)
        seeds = [index.seed for index in indices if isinstance(index, SeededIndex)]
        return {**self.read_batch(positions, seeds), "index": torch.from_numpy(positions)}


def position_of(index: int | SeededIndex) -> int:
    """The position of a sample in its data set."""
    return index.position if isinstance(index, SeededIndex) else index


def uniform_numbers(seeds: Sequence[Sequence[int]], count: int) -> Floats:
    """Random numbers in [0, 1), ``(len(seeds), count)``; each row depends on its seed alone.

    A row of fewer numbers is the beginning of a row of more numbers.
    """
    numbers = np.empty((len(seeds), count), np.float32)
    for row, seed in zip(numbers, seeds, strict=True):
        np.random.default_rng(seed).random(out=row, dtype=np.float32)
    return numbers


def flip_where(numbers: Floats, images: Pixels) -> Pixels:
    """Flips horizontally the images ``(N, C, H, W)`` whose number ``(N,)``, from 0 to 1, is below one half."""
    return np.where(numbers[:, None, None, None] < 0.5, images[..., ::-1], images)
