from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from datamodules import Batch, TensorPairs
from datamodules.serving.datasets import collate


@pytest.fixture
def pairs() -> TensorPairs:
    return TensorPairs({"x": torch.arange(10.0).view(5, 2), "target": torch.tensor([0, 1, 0, 1, 1])})


def test_a_sample_is_a_row_of_every_tensor(pairs: TensorPairs) -> None:
    sample = pairs[3]
    assert sample["x"].tolist() == [6.0, 7.0]
    assert sample["target"].item() == 1
    assert sample["index"].item() == 3


def test_many_samples_come_in_the_order_asked_for(pairs: TensorPairs) -> None:
    batch = pairs.__getitems__([4, 0, 4])
    assert batch["x"].tolist() == [[8.0, 9.0], [0.0, 1.0], [8.0, 9.0]]
    assert batch["index"].tolist() == [4, 0, 4]


def test_a_batch_is_a_copy(pairs: TensorPairs) -> None:
    pairs.__getitems__([0, 1])["x"].zero_()
    assert pairs[1]["x"].tolist() == [2.0, 3.0]


def test_iterating_ends_after_the_last_sample(pairs: TensorPairs) -> None:
    assert [int(pairs[i]["index"]) for i in range(len(pairs))] == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        pairs[5]


def test_the_loader_asks_once_for_a_batch(pairs: TensorPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = TensorPairs.__getitems__

    def counted(self: TensorPairs, indices: Sequence[int]) -> Batch:
        calls.append(list(indices))
        return original(self, indices)

    monkeypatch.setattr(TensorPairs, "__getitems__", counted)
    assert len(list(DataLoader(pairs, batch_size=4, collate_fn=collate))) == 2
    assert calls == [[0, 1, 2, 3], [4]]


def test_a_subset_of_the_pairs_collates_too(pairs: TensorPairs) -> None:
    batch = next(iter(DataLoader(Subset(pairs, [4, 2]), batch_size=2, collate_fn=collate)))
    assert batch["index"].tolist() == [4, 2]


def test_selected_samples_are_counted_from_zero(pairs: TensorPairs) -> None:
    selected = pairs.select(torch.tensor([4, 1]))
    assert len(selected) == 2
    assert selected[0]["x"].tolist() == [8.0, 9.0]
    assert selected[0]["index"].item() == 0


def test_bytes_are_images_from_minus_one_to_one() -> None:
    images = TensorPairs({"image": torch.tensor([[0, 51, 255]], dtype=torch.uint8)})
    assert images.tensors["image"].dtype == torch.uint8
    torch.testing.assert_close(images[0]["image"], torch.tensor([-1.0, -0.6, 1.0]))


def test_tensors_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one length, got \{'x': 2, 'target': 3\}"):
        TensorPairs({"x": torch.zeros(2), "target": torch.zeros(3)})


def test_an_index_of_the_callers_is_refused() -> None:
    with pytest.raises(ValueError, match="'index' is the position"):
        TensorPairs({"index": torch.zeros(2)})
