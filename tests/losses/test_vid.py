from __future__ import annotations

import math

import pytest
import torch

from distill.losses import vid_loss
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 2, 3)])
def test_it_is_a_gaussian_log_likelihood_up_to_a_constant(shape: tuple[int, ...]) -> None:
    mean, teacher, variance = features(*shape), features(*shape, seed=1), features(4, seed=2).exp()
    scale = variance.sqrt().view(4, *[1] * (len(shape) - 2)).expand(shape[1:])
    likelihood = torch.distributions.Normal(mean, scale).log_prob(teacher)
    expected = -likelihood.flatten(1).mean(1) - math.log(2 * math.pi) / 2
    assert_near(vid_loss(mean, teacher, variance, reduction="none"), expected)
    assert_near(vid_loss(mean, teacher, variance), expected.mean())


def test_gradients_for_mean_and_variance_by_hand() -> None:
    mean, teacher, variance = torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([5.0])
    assert vid_loss(mean, teacher, variance).item() == pytest.approx((4 / 5 + math.log(5)) / 2)
    of_mean, of_variance = gradients(lambda m, v: vid_loss(m, teacher, v), mean, variance)
    assert of_mean.item() == pytest.approx(2 / 5)
    assert of_variance.item() == pytest.approx((1 / 5 - 4 / 25) / 2)


def test_the_best_variance_is_the_mean_squared_error_of_a_channel() -> None:
    mean, teacher = features(5, 3, 4), features(5, 3, 4, seed=1)
    errors = (mean - teacher).square().mean((0, 2))
    (slope,) = gradients(lambda v: vid_loss(mean, teacher, v), errors)
    assert_near(slope, torch.zeros_like(slope))


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    maps = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"one variance a channel, \(3,\), got shape \(4,\)"):
        vid_loss(maps, maps, torch.ones(4))
    with pytest.raises(
        ValueError, match=r"shape of the teacher's features \(N, C, \*\), got \(2, 3, 4\) and \(2, 3, 5\)"
    ):
        vid_loss(maps, torch.zeros(2, 3, 5), torch.ones(3))
