from __future__ import annotations

import pytest
import torch
from sklearn.svm import LinearSVC
from torch import Tensor

from datamodules import GaussianPair, TensorPairs

LEVELS = range(1, 7)


def samples(level: int, split: str = "test", **arguments: int) -> dict[str, Tensor]:
    module = GaussianPair(level, **arguments)
    module.setup()
    pairs = getattr(module.splits, split)
    assert isinstance(pairs, TensorPairs)
    return pairs.tensors


def common_columns(first: Tensor, second: Tensor) -> int:
    return int((first.T[:, None] == second.T[None]).all(-1).sum())


@pytest.mark.parametrize(("level", "overlap"), [(1, 10), (2, 8), (3, 6), (4, 4), (5, 2), (6, 0)])
def test_modalities_share_as_many_decisive_values_as_the_level_says(level: int, overlap: int) -> None:
    data = samples(level)
    assert common_columns(data["x_a"], data["x_b"]) == overlap
    assert common_columns(data["x_a"], data["x_a"]) == 25


@pytest.mark.parametrize("level", LEVELS[1:])
def test_the_level_changes_decisive_columns_of_the_teacher_only(level: int) -> None:
    for split in ("train", "val", "test"):
        first, other = samples(1, split), samples(level, split)
        assert torch.equal(first["x_b"], other["x_b"])
        assert torch.equal(first["target"], other["target"])
        assert torch.equal(first["x_a"][:, 10:], other["x_a"][:, 10:])
        assert not torch.equal(first["x_a"][:, :10], other["x_a"][:, :10])


def test_one_boundary_through_the_hidden_dimensions_decides_in_all_splits() -> None:
    # at level 6 the modalities hold the hidden dimensions between them
    splits = [samples(6, split) for split in ("train", "val", "test")]
    hidden = torch.cat([torch.cat([data["x_b"][:, :10], data["x_a"][:, :10]], 1) for data in splits]).numpy()
    target = torch.cat([data["target"] for data in splits]).numpy()
    boundary = LinearSVC(C=1e4, fit_intercept=False, max_iter=100_000).fit(hidden[:1200], target[:1200])
    assert boundary.score(hidden, target) > 0.99
    assert abs(target.mean() - 0.5) < 0.05


def test_noise_is_standard_normal_and_decides_nothing() -> None:
    data = samples(6)
    sign = 2.0 * data["target"] - 1
    for values in (data["x_a"], data["x_b"]):
        torch.testing.assert_close(values.mean(0), torch.zeros(25), atol=0.15, rtol=0)
        torch.testing.assert_close(values.std(0), torch.ones(25), atol=0.1, rtol=0)
        correlation = (values * sign[:, None]).mean(0).abs()
        assert correlation[10:].max() < 0.12
        assert correlation[:10].max() > 0.2


def test_training_and_test_samples_do_not_depend_on_the_number_of_validation_samples() -> None:
    for split in ("train", "test"):
        few, many = samples(3, split, val_size=10), samples(3, split, val_size=500)
        assert all(torch.equal(few[name], many[name]) for name in few)


@pytest.mark.parametrize("level", [0, 7, -1, 2.5])
def test_a_level_that_does_not_exist_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match=f"level must be one of 1, 2, 3, 4, 5, 6, got {level}"):
        GaussianPair(level)


def test_an_empty_training_split_is_refused() -> None:
    with pytest.raises(ValueError, match="train_size must be at least 1, got 0"):
        GaussianPair(1, train_size=0)


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [7, 7, 7, 7, 7]), (3, [3, 3, 3, 3, 3])])
def test_an_epoch_has_as_many_steps_as_asked_for(batch_size: int | None, sizes: list[int]) -> None:
    module = GaussianPair(1, train_size=7, batch_size=batch_size, steps_per_epoch=5)
    module.setup()
    batches = list(module.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == sizes
    assert len(module.train_dataloader()) == 5
    if batch_size is None:
        assert all(sorted(batch["index"].tolist()) == list(range(7)) for batch in batches)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1, got 0"):
        GaussianPair(1, steps_per_epoch=0)
