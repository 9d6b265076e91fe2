from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.losses.parts import pairwise
from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pairwise import distances, rows, squared_distances, squared_distances_of_pairs
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients


def of_differences(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(2)


@pytest.fixture(params=[1, 2, 1024])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many columns are worked on at a time."""
    monkeypatch.setattr(pairwise, "COLUMNS", request.param)
    monkeypatch.setattr(pairwise, "NUMBERS", 0)


@pytest.mark.usefixtures("strips")
def test_squared_distances_and_gradients_are_those_of_the_differences() -> None:
    a, b, weights = features(4, 5), features(3, 5, seed=1), features(4, 3, seed=2)
    assert_near(squared_distances(a, b), of_differences(a, b))
    actual, expected = (
        gradients(lambda a, b, f=f: weights * f(a, b), a, b) for f in (squared_distances, of_differences)
    )
    for one, other in zip(actual, expected, strict=True):
        assert_near(one, other)


@pytest.mark.usefixtures("strips")
def test_squared_distances_of_pairs_are_those_of_one_tensor_to_itself() -> None:
    a, weights = features(4, 5), features(4, 4, seed=2)
    above = torch.ones(4, 4, dtype=torch.bool).triu(1)
    assert_near(squared_distances(a, a), of_differences(a, a))
    assert_near(squared_distances_of_pairs(a), of_differences(a, a)[above])
    actual, expected = (gradients(lambda a, f=f: weights * f(a, a), a) for f in (squared_distances, of_differences))
    assert_near(actual[0], expected[0])


def test_squared_distances_can_be_differentiated_twice() -> None:
    points = features(3, 2).requires_grad_(), features(2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(squared_distances, points)
    assert torch.autograd.gradcheck(squared_distances_of_pairs, points[:1])
    assert torch.autograd.gradgradcheck(squared_distances_of_pairs, points[:1])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_copies_that_train_side_by_side_have_the_gradients_of_their_own_pairs() -> None:
    def loss(points: Tensor) -> Tensor:
        return squared_distances_of_pairs(points).square().sum()

    points = features(3, 4, 2)
    alone = torch.stack([gradients(loss, one)[0] for one in points])
    assert_near(torch.func.vmap(torch.func.grad(loss))(points), alone)
    assert_near(gradients(torch.func.vmap(loss), points)[0], alone)


def test_squared_distances_of_long_rows_keep_their_digits() -> None:
    long = features(3, 2**18).float()
    exact = torch.pdist(long.double()).square()
    torch.testing.assert_close(squared_distances_of_pairs(long).double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
def test_squared_distances_keep_the_digits_of_the_differences_and_equal_rows_have_exactly_0(
    offset: float, same: bool
) -> None:
    a = (features(6, 300) + offset).float()
    a[1] = a[0]
    a[2] = a[0]
    a[2, 0] += 0.25
    squared = squared_distances(a, a if same else a.clone())
    torch.testing.assert_close(squared.double(), of_differences(a.double(), a.double()), rtol=1e-5, atol=0)
    assert squared[0, 1].item() == 0
    assert squared.diagonal().tolist() == [0.0] * 6


def test_distances_of_0_have_no_gradient() -> None:
    squared = torch.tensor([0.0, 4.0])
    assert distances(squared).tolist() == [0.0, 2.0]
    assert gradients(distances, squared)[0].tolist() == [0.0, 0.25]


def test_rows_are_features_of_the_same_samples() -> None:
    actual, _ = rows(torch.zeros(2, 3, 4).bfloat16(), torch.zeros(2, 5))
    assert actual.shape == (2, 12)
    assert actual.dtype == torch.float32
    with pytest.raises(ValueError, match=r"features of the same samples, \(N, C, \*\), got \(2, 3\) and \(3, 3\)"):
        rows(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"features of the same samples, \(N, C, \*\), got \(2,\) and \(2,\)"):
        rows(torch.zeros(2), torch.zeros(2))


def test_unit_vectors_have_length_1_and_zeros_stay_zeros_with_their_gradient() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(unit_vectors(vectors), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    (slope,) = gradients(lambda v: unit_vectors(v)[1], vectors)
    assert slope.tolist() == [[0.0, 0.0], [1.0, 1.0]]
