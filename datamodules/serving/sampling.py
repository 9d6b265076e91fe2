"""Training samples of which something is drawn anew in every epoch: who draws, and what is made of a draw."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class SeededIndex(NamedTuple):
    """A sample's position in its data set, and the seed of all that is random about it this time."""

    position: int
    seed: int


class SeededSampler(Sampler[SeededIndex]):
    """All samples in random order, each with a seed for its augmentation.

    Both are drawn here, in the main process, so neither depends on the number of workers. Lightning numbers the epochs
    through :meth:`set_epoch`; order and seeds are then a function of ``seed_everything``'s seed (0 where it was not
    called, as in Lightning's own distributed sampler) and that number. So processes that share an epoch agree on what
    they share, whatever became of their random states, and a resumed run sees what one never stopped would. Before
    any number was given, as in a plain loop over a loader, they follow torch's global random state.

    Args:
        length: How many samples there are.
        epoch: The number of the first epoch, where it is known; workers fetch ahead of ``set_epoch``.
    """

    def __init__(self, length: int, epoch: int | None = None) -> None:
        self.length = length
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Fixes what the next iteration draws."""
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


def split_seeds(indices: Sequence[int | SeededIndex]) -> tuple[NDArray[np.int64], list[int]]:
    """The positions of a batch, and the seeds of its draws; no seeds where the samples are asked for as they are.

    Args:
        indices: Draws, or plain positions.
    """
    positions = [index.position if isinstance(index, SeededIndex) else index for index in indices]
    return np.array(positions, np.int64), [index.seed for index in indices if isinstance(index, SeededIndex)]


def uniform_numbers(seeds: Sequence[Sequence[int]], count: int) -> Floats:
    """Random numbers from 0 to below 1 that depend on nothing but the seed of their row.

    Returns:
        ``(len(seeds), count)``; a smaller count gives the beginning of each row.
    """
    numbers = np.empty((len(seeds), count), np.float32)
    for row, seed in zip(numbers, seeds, strict=True):
        np.random.default_rng(seed).random(out=row, dtype=np.float32)
    return numbers


def as_floats(images: Bytes) -> Tensor:
    """Images as ``float32`` from -1 (black) to 1 (white)."""
    return torch.from_numpy(images).float().div_(127.5).sub_(1)


def flipped(images: Bytes, numbers: Floats) -> Bytes:
    """Mirrors the images ``(N, C, H, W)`` whose number, from 0 to 1, is below one half."""
    return np.where(numbers[:, None, None, None] < 0.5, images[..., ::-1], images)
