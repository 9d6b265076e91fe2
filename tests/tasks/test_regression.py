from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from distill import Regression
from distill.tasks.regression import RegressionLoss
from distill.training.means import counted_mean


def measured(*spatial: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, target = 2 * torch.randn(2, 4, 3, *spatial, generator=generator)
    target[0, 1], target[2] = torch.nan, torch.nan
    return prediction, target


EQUATIONS: dict[str, Any] = {
    "mse": lambda e: e**2,
    "l1": lambda e: e.abs(),
    "huber": lambda e: torch.where(e.abs() < 0.7, e**2 / 2, 0.7 * (e.abs() - 0.35)),
    "smooth_l1": lambda e: torch.where(e.abs() < 0.7, e**2 / 1.4, e.abs() - 0.35),
}


@pytest.mark.parametrize("spatial", [(), (5,), (2, 3)])
@pytest.mark.parametrize("loss", get_args(RegressionLoss))
def test_the_hard_loss_is_a_mean_over_the_measured_numbers(loss: RegressionLoss, spatial: tuple[int, ...]) -> None:
    task = Regression(3, loss=loss, beta=0.7)
    prediction, target = measured(*spatial)
    task.check(prediction, target, model="net", data="Data")
    known = ~target.isnan()
    expected = EQUATIONS[loss]((prediction - target).double())
    values = task.loss(prediction, target)
    assert values[~known].eq(0).all()
    torch.testing.assert_close(values[known].double(), expected[known], rtol=1e-5, atol=1e-6)
    assert torch.equal(task.counts(target), known.float())
    mean = counted_mean(values, {"target": target}, task)
    torch.testing.assert_close(mean.double(), expected[known].mean(), rtol=1e-5, atol=1e-6)


def test_a_missing_number_has_no_slope_whatever_is_predicted() -> None:
    prediction = torch.tensor([[torch.inf, 1.0]], requires_grad=True)
    loss = Regression(2).loss(prediction, torch.tensor([[torch.nan, 3.0]]))
    (slope,) = torch.autograd.grad(loss.sum(), prediction)
    assert (loss.tolist(), slope.tolist()) == ([[0, 4]], [[0, -4]])


def test_one_number_a_sample_needs_no_channel_in_the_target() -> None:
    task = Regression()
    prediction, target = torch.tensor([[1.0], [2.0]]), torch.tensor([1.5, torch.nan])
    task.check(prediction, target, model="net", data="Data")
    assert task.loss(prediction, target).tolist() == [[0.25], [0]]
    metrics = task.metrics()
    metrics.update(prediction, target)
    assert metrics.compute()["mae"] == 0.5
    assert (task.monitor, task.mode, task.probabilities(prediction)) == ("val/mae", "min", None)


def test_maps_of_another_size_are_brought_to_the_targets() -> None:
    task = Regression(2)
    target = torch.zeros(1, 2, 4, 6)
    assert task.at_targets(torch.full((1, 2, 2, 3), 5.0), target).eq(torch.full((1, 2, 4, 6), 5.0)).all()
    fine = torch.arange(2.0 * 8 * 6).view(1, 2, 8, 6)
    torch.testing.assert_close(task.at_targets(fine, target), fine.unflatten(2, (4, 2)).mean(3))


def test_named_outputs_have_scores_of_their_own() -> None:
    metrics = Regression(2, output_names=["x", "y"]).metrics()
    metrics.update(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 4.0]]))
    scores = metrics.compute()
    assert (scores["mae_x"], scores["mae_y"], scores["mae"]) == (1, 2, 1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": 0}, "outputs must be at least 1, got 0"),
        ({"loss": "l2"}, "loss must be one of mse, l1, smooth_l1, huber, got 'l2'"),
        ({"beta": 0.0}, "beta must be positive, got 0.0"),
        ({"outputs": 2, "output_names": ["x"]}, "output_names must be 2 different names, got x"),
    ],
)
def test_arguments_out_of_their_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regression(**arguments)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 2), r"net returns .*\(2, 3\), but Regression\(outputs=2\) takes numbers"),
        (torch.zeros(2, 2), torch.zeros(2, 1), r"target must have the shape of the prediction, \(2, 2\), got \(2, 1\)"),
        (torch.zeros(2, 2), torch.zeros(2, 2).long(), r"target must hold floats, and NaN where a number is missing"),
        (torch.zeros(1, 2), torch.tensor([[1, torch.inf]]), r"target holds an infinite number: use NaN"),
        (torch.tensor([[1, torch.nan]]), torch.zeros(1, 2), r"net returns numbers that are NaN or infinite"),
    ],
)
def test_predictions_and_numbers_that_do_not_fit_are_one_sentence(
    prediction: Tensor, target: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Regression(2).check(prediction, target, model="net", data="Data")
