from __future__ import annotations

import pytest
import torch
from torch import Tensor

from datamodules import SklearnPair, TensorPairs


def samples(gamma: float, split: str = "train", **arguments: int) -> dict[str, Tensor]:
    module = SklearnPair(gamma, **arguments)
    module.setup()
    pairs = getattr(module.splits, split)
    assert isinstance(pairs, TensorPairs)
    return pairs.tensors


def common_columns(first: Tensor, second: Tensor) -> int:
    return int((first.T[:, None] == second.T[None]).all(-1).sum())


@pytest.mark.parametrize(
    ("gamma", "overlap"), [(0, 10), (0.2, 8), (0.25, 8), (0.4, 6), (0.5, 5), (0.6, 4), (0.75, 2), (0.8, 2), (1, 0)]
)
def test_modalities_share_one_minus_gamma_of_their_features(gamma: float, overlap: int) -> None:
    data = samples(gamma)
    assert common_columns(data["x_a"], data["x_b"]) == overlap
    assert common_columns(data["x_a"], data["x_a"]) == 25


def test_gamma_changes_features_of_the_teacher_only() -> None:
    first, other = samples(0.0), samples(1.0)
    assert torch.equal(first["x_b"], other["x_b"])
    assert torch.equal(first["target"], other["target"])
    assert torch.equal(first["x_a"][:, 10:], other["x_a"][:, 10:])
    assert common_columns(samples(0.3)["x_a"], first["x_a"]) == 22


def test_columns_are_standardised_by_the_training_samples() -> None:
    data = samples(1.0)
    for values in (data["x_a"][:, :10], data["x_b"][:, :10]):
        torch.testing.assert_close(values.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones(10), atol=1e-5, rtol=0)


def test_classes_are_balanced() -> None:
    counts = torch.bincount(torch.cat([samples(0.0, split)["target"] for split in ("train", "val", "test")]))
    assert len(counts) == 8
    assert counts.min() > 280
    assert counts.max() < 345


def class_spread(values: Tensor, target: Tensor) -> Tensor:
    """The variance of the class means of each column: 0 where a column says nothing about the class."""
    return torch.stack([values[target == label].mean(0) for label in range(8)]).var(0)


@pytest.mark.parametrize("modality", ["x_a", "x_b"])
def test_ten_columns_are_informative_and_fifteen_are_noise(modality: str) -> None:
    data = samples(1.0, train_size=8000)
    spread = class_spread(data[modality], data["target"])
    assert spread[:10].min() > 4 * spread[10:].max()


def test_one_distribution_for_training_and_test() -> None:
    training, test = (samples(1.0, split, train_size=4000, test_size=4000) for split in ("train", "test"))
    for name in ("x_a", "x_b"):
        train_means, test_means = (
            torch.stack([data[name][data["target"] == label, :10].mean(0) for label in range(8)])
            for data in (training, test)
        )
        torch.testing.assert_close(train_means, test_means, atol=0.2, rtol=0)


def accuracy(inputs: Tensor, target: Tensor) -> float:
    """Percent right of one 25-40-8 network a seed ``(S, 1500, 25)``, after 200 full-batch steps on the first 500."""
    seeds = len(inputs)
    generator = torch.Generator().manual_seed(0)
    shapes, fans = [(25, 40), (1, 40), (40, 8), (1, 8)], [25, 25, 40, 40]
    parameters = [
        ((2 * torch.rand(seeds, *shape, generator=generator) - 1) / fan**0.5).requires_grad_()
        for shape, fan in zip(shapes, fans, strict=True)
    ]

    def logits(values: Tensor) -> Tensor:
        first, first_bias, second, second_bias = parameters
        hidden = torch.relu(values @ first + first_bias)
        scores: Tensor = hidden @ second + second_bias
        return scores

    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(logits(inputs[:, :500]).flatten(0, 1), target[:, :500].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss * seeds)
        optimizer.step()
    return 100 * (logits(inputs[:, 500:]).argmax(-1) == target[:, 500:]).float().mean().item()


@pytest.mark.parametrize("modality", ["x_a", "x_b"])
def test_a_small_network_reaches_the_papers_accuracy_on_either_modality(modality: str) -> None:
    pairs = [[samples(1.0, split, seed=seed) for split in ("train", "test")] for seed in range(10)]
    inputs = torch.stack([torch.cat([split[modality] for split in pair]) for pair in pairs])
    target = torch.stack([torch.cat([split["target"] for split in pair]) for pair in pairs])
    assert accuracy(inputs, target) == pytest.approx(39.6, abs=2)


@pytest.mark.parametrize("gamma", [-0.1, 1.01, float("nan")])
def test_gamma_outside_its_range_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=rf"gamma must lie in \[0, 1\], got {gamma}"):
        SklearnPair(gamma)
