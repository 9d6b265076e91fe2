from __future__ import annotations

import math

import pytest
import torch
from scipy.special import hyp0f1
from torch import Tensor

from distill.losses import nce_log_normalizer, nce_loss
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients


def equation(positive: Tensor, negatives: Tensor, n_data: int, normalizer: float) -> Tensor:
    """Tian et al., eqs. 18 and 19, pair by pair."""
    noise = negatives.shape[1] / n_data
    values = []
    for one, others in zip(positive, negatives, strict=True):
        value = -((one.exp() / normalizer) / (one.exp() / normalizer + noise)).log()
        for other in others:
            value = value - (noise / (other.exp() / normalizer + noise)).log()
        values.append(value)
    return torch.stack(values)


@pytest.mark.parametrize("normalizer", [1.0, 50.0])
def test_values_and_gradients_are_those_of_the_equation(normalizer: float) -> None:
    positive, negatives = features(4), features(4, 7, seed=1)

    def actual(p: Tensor, n: Tensor) -> Tensor:
        return nce_loss(p, n, n_data=100, log_normalizer=math.log(normalizer), reduction="none")

    def expected(p: Tensor, n: Tensor) -> Tensor:
        return equation(p, n, 100, normalizer)

    assert_near(actual(positive, negatives), expected(positive, negatives))
    for one, other in zip(
        gradients(actual, positive, negatives), gradients(expected, positive, negatives), strict=True
    ):
        assert_near(one, other)


def test_computed_by_hand() -> None:
    # two negatives of four samples: the noise is 1/2; h = 3 / 3.5 for e^z = 3 and 1 / 1.5 for e^z = 1
    value = nce_loss(torch.tensor([math.log(3)]), torch.zeros(1, 2), n_data=4)
    assert value.item() == pytest.approx(-math.log(3 / 3.5) - 2 * math.log(0.5 / 1.5))


def test_finite_for_gaps_of_1000() -> None:
    positive, negatives = torch.tensor([-1000.0, 1000.0]), torch.tensor([[1000.0], [-1000.0]])
    assert nce_loss(positive, negatives, n_data=1, reduction="none").tolist() == [2000.0, 0.0]
    for slope in gradients(lambda p, n: nce_loss(p, n, n_data=10), positive, negatives):
        assert slope.isfinite().all()


@pytest.mark.parametrize(("dimension", "temperature"), [(1, 0.2), (3, 1.0), (5, 0.5), (128, 0.07)])
def test_the_normalizer_makes_the_probabilities_of_embeddings_anywhere_sum_to_1(
    dimension: int, temperature: float
) -> None:
    found = nce_log_normalizer(n_data=40, dimension=dimension, temperature=temperature)
    assert found == pytest.approx(math.log(40 * hyp0f1(dimension / 2, 1 / (4 * temperature**2))))
    # what the authors' code does with its first batch
    directions = features(100_000, dimension)
    cosines = directions[:, 0] / directions.norm(dim=1)
    assert found == pytest.approx(math.log(40 * (cosines / temperature).exp().mean()), abs=0.03)


def test_the_normalizer_by_hand_and_where_the_largest_term_is_no_number() -> None:
    # in three dims the cosine is uniform from -1 to 1, in one it is -1 or 1
    log_sinh = 1000 - math.log(2)
    assert nce_log_normalizer(n_data=1, dimension=3, temperature=1e-3) == pytest.approx(log_sinh - math.log(1000))
    assert nce_log_normalizer(n_data=1, dimension=1, temperature=1e-3) == pytest.approx(log_sinh)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"one positive \(N,\) and K negatives \(N, K\) a sample, got \(2, 1\) and \(2,"
    ):
        nce_loss(torch.zeros(2, 1), torch.zeros(2, 3), n_data=4)
    with pytest.raises(ValueError, match="n_data must be at least 1, got 0"):
        nce_loss(torch.zeros(2), torch.zeros(2, 3), n_data=0)
