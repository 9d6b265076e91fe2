from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill import DepthEstimation


def depth_maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (1 + 8 * torch.rand(3, 1, 5, 6, generator=generator) for _ in range(2))
    target[0, 0, 2] = 0  # no ground truth
    target[1, 0, 3, 0] = 12.0  # beyond the range
    target[2, 0, 2:] = 0  # nothing below the ignored rows
    return prediction, target


def test_depth_costs_the_scale_invariant_error_of_each_image_below_the_ignored_rows() -> None:
    prediction, target = depth_maps()
    loss = DepthEstimation(max_depth=10.0, ignore_top_rows=2).loss(prediction, target)
    for n in range(2):
        counted = (target[n, 0] > 0) & (target[n, 0] < 10)
        counted[:2] = False
        g = (prediction[n, 0].double().log() - target[n, 0].double().log())[counted]
        expected = (g.square().mean() - 0.85 * g.mean().square()).sqrt()
        assert loss[n].item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss[2] == 0


def test_depths_in_the_range_and_below_the_ignored_rows_count() -> None:
    _, target = depth_maps()
    counts = DepthEstimation(max_depth=10.0, ignore_top_rows=2).counts(target)
    expected = ((target > 0) & (target < 10))[:, 0].float()
    expected[:, :2] = 0
    assert torch.equal(counts, expected)


def test_a_smaller_depth_map_is_enlarged_to_the_target() -> None:
    task = DepthEstimation(max_depth=10.0)
    target = torch.full((1, 1, 8, 12), 5.0)
    assert task.at_targets(torch.full((1, 1, 4, 6), 3.0), target).eq(torch.full((1, 1, 8, 12), 3.0)).all()
    same = torch.rand(1, 1, 8, 12)
    assert task.at_targets(same, target) is same


def test_the_monitored_score_of_depth_is_logged_and_the_less_the_better() -> None:
    task = DepthEstimation(max_depth=10.0)
    metrics = task.metrics()
    metrics.update(torch.full((1, 1, 2, 2), 4.0), torch.full((1, 1, 2, 2), 5.0))
    scores = metrics.compute()
    assert scores["abs_rel"].item() == pytest.approx(0.2)
    assert scores["rmse"].item() == pytest.approx(1.0)
    assert (task.monitor, task.mode) == ("val/abs_rel", "min")


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ((2, 5, 4, 6), torch.ones(2, 1, 4, 6), r"net returns .*\(2, 5, 4, 6\), but DepthEstimation\(\) takes depth"),
        (
            (2, 1, 4, 6),
            torch.ones(2, 4, 6),
            r"Data: target must hold one depth in metres per pixel, floats of shape",
        ),
        ((2, 1, 4, 6), torch.ones(2, 1, 4, 6).long(), r"floats of shape \(2, 1, H, W\), got torch.int64"),
        ((2, 1, 8, 6), torch.ones(2, 1, 4, 6), r"net returns depth of \(8, 6\) pixels, more than the target's"),
        ((2, 1, 4, 6), -torch.ones(2, 1, 4, 6), r"metres, and 0 for no ground truth, got negative or NaN"),
        ((2, 1, 3, 6), torch.ones(2, 1, 3, 6), r"ignore_top_rows=3 leaves none of the 3 rows"),
    ],
)
def test_depth_that_does_not_fit_the_task_is_one_sentence(
    prediction: tuple[int, ...], target: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DepthEstimation(ignore_top_rows=3).check(torch.ones(prediction), target, model="net", data="Data")


def test_a_prediction_that_is_no_number_is_named() -> None:
    prediction = torch.ones(1, 1, 4, 6)
    prediction[0, 0, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="teacher Net returns depth that is NaN or infinite"):
        DepthEstimation().check(prediction, torch.ones(1, 1, 4, 6), model="teacher Net", data="Data")


def test_a_range_or_crop_that_there_is_not_is_refused() -> None:
    for arguments in ({"min_depth": 5.0, "max_depth": 2.0}, {"crop": "middle"}, {"ignore_top_rows": -1}):
        with pytest.raises(ValueError, match=r"\d|garg"):
            DepthEstimation(**arguments)
