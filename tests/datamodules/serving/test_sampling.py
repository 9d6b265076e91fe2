from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datamodules.serving.sampling import SeededDataset, SeededIndex, SeededSampler, flip_where, uniform_numbers
from distill.outputs import Batch


class Numbers(SeededDataset):
    def __len__(self) -> int:
        return 10

    def read_batch(self, positions: NDArray[np.int64], seeds: Sequence[int]) -> Batch:
        return {"seed": torch.tensor(list(seeds) or [-1] * len(positions))}


def test_a_seeded_data_set_reads_batches_with_or_without_seeds_and_adds_their_index() -> None:
    plain = Numbers().__getitems__([3, 1])
    assert (plain["index"].tolist(), plain["seed"].tolist()) == ([3, 1], [-1, -1])
    seeded = Numbers().__getitems__([SeededIndex(3, 7), SeededIndex(1, 8)])
    assert (seeded["index"].tolist(), seeded["seed"].tolist()) == ([3, 1], [7, 8])
    assert {name: int(value) for name, value in Numbers()[SeededIndex(4, 9)].items()} == {"index": 4, "seed": 9}


def test_order_and_seeds_follow_the_seed_of_the_run_and_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    first = list(SeededSampler(100, epoch=0))
    positions = [index.position for index in first]
    assert positions != sorted(positions) == list(range(100))
    assert len({index.seed for index in first}) == 100
    assert first == list(SeededSampler(100, epoch=0))
    assert first != list(SeededSampler(100, epoch=1))
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    assert first != list(SeededSampler(100, epoch=0))


def test_without_an_epoch_they_follow_torchs_random_state() -> None:
    torch.manual_seed(0)
    first = list(SeededSampler(100))
    assert first != list(SeededSampler(100))
    torch.manual_seed(0)
    assert first == list(SeededSampler(100))


def test_a_row_of_random_numbers_depends_on_its_seed_and_not_on_its_length() -> None:
    numbers = uniform_numbers([[1], [2, 3]], 8)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert np.array_equal(uniform_numbers([[2, 3]], 5), numbers[1:, :5])


def test_images_with_a_number_below_one_half_are_flipped() -> None:
    images = np.arange(3 * 2 * 2 * 4, dtype=np.uint8).reshape(3, 2, 2, 4)
    flipped = flip_where(np.array([0.49, 0.5, 0.0], np.float32), images)
    assert np.array_equal(flipped[[0, 2]], images[[0, 2], :, :, ::-1])
    assert np.array_equal(flipped[1], images[1])
