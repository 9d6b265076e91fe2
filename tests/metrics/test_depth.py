from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.metrics import DepthScores


def maps(samples: int = 5, height: int = 12, width: int = 16) -> tuple[Tensor, Tensor]:
    """Float32 depth ``(samples, 1, height, width)`` and sparse targets, of which every image has another share."""
    generator = torch.Generator().manual_seed(0)
    target = 90 * torch.rand(samples, 1, height, width, generator=generator)
    prediction = target * torch.empty_like(target).log_normal_(0, 0.3, generator=generator)
    target[torch.rand(target.shape, generator=generator) < torch.linspace(0.1, 0.9, samples).view(-1, 1, 1, 1)] = 0
    return prediction, target


def scores_of(prediction: Tensor, target: Tensor, batch: int = 1, **options: Any) -> dict[str, float]:
    scores = DepthScores(**options)
    for pair in zip(prediction.split(batch), target.split(batch), strict=True):
        scores.update(*pair)
    return {name: value.item() for name, value in scores.compute().items()}


def errors(prediction: Tensor, target: Tensor, min_depth: float = 1e-3, max_depth: float = 80.0) -> dict[str, float]:
    """The scores of one set of pixels as Eigen et al. define them, in NumPy."""
    gt, pred = target.double().numpy(), prediction.double().numpy()
    valid = (gt > min_depth) & (gt < max_depth)
    gt, pred = gt[valid], np.clip(pred[valid], min_depth, max_depth)
    ratio, g = np.maximum(gt / pred, pred / gt), np.log(pred) - np.log(gt)
    return {
        "abs_rel": np.mean(np.abs(gt - pred) / gt),
        "sq_rel": np.mean((gt - pred) ** 2 / gt),
        "rmse": np.sqrt(np.mean((gt - pred) ** 2)),
        "rmse_log": np.sqrt(np.mean(g**2)),
        "log10": np.mean(np.abs(np.log10(gt) - np.log10(pred))),
        "silog": np.std(g) * 100,
        **{f"delta{k}": np.mean(ratio < 1.25**k) for k in (1, 2, 3)},
    }


def mean_errors(prediction: Tensor, target: Tensor) -> dict[str, float]:
    of_images = [errors(*image) for image in zip(prediction, target, strict=True)]
    return {name: float(np.mean([scores[name] for scores in of_images])) for name in of_images[0]}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_scores_are_those_of_the_definitions_by_either_average(batch: int) -> None:
    prediction, target = maps()
    assert scores_of(prediction, target, batch) == pytest.approx(mean_errors(prediction, target), rel=1e-12)
    by_pixel = scores_of(prediction, target, batch, average="pixel")
    assert by_pixel == pytest.approx(errors(prediction, target), rel=1e-12)
    assert abs(by_pixel["rmse"] - mean_errors(prediction, target)["rmse"]) > 1e-3


def test_scores_by_hand() -> None:
    scores = scores_of(torch.tensor([[[[2.0, 13.0, 40.0]]]]), torch.tensor([[[[2.0, 10.0, 20.0]]]]))
    assert scores == pytest.approx(
        {
            "abs_rel": 1.3 / 3,
            "sq_rel": 20.9 / 3,
            "rmse": math.sqrt(409 / 3),
            "rmse_log": math.sqrt((math.log(1.3) ** 2 + math.log(2) ** 2) / 3),
            "log10": math.log10(2.6) / 3,
            "silog": 100 * np.std([0, math.log(1.3), math.log(2)]),
            "delta1": 1 / 3,
            "delta2": 2 / 3,
            "delta3": 2 / 3,
        }
    )


def test_silog_does_not_see_the_scale_of_the_depth() -> None:
    target = maps()[1] / 10
    scores = scores_of(2 * target, target)
    assert scores["silog"] == pytest.approx(0, abs=1e-4)
    assert scores["rmse_log"] == pytest.approx(math.log(2))


def test_targets_at_and_beyond_the_ends_do_not_count_and_predictions_are_clamped() -> None:
    target = torch.tensor([[[[0.0, 1.0, 10.0, 11.0, math.nan, math.inf, 5.0, 8.0]]]])
    prediction = torch.tensor([[[[5.0, 5.0, 5.0, 5.0, 5.0, 5.0, -3.0, math.inf]]]])
    scores = scores_of(prediction, target, min_depth=1.0, max_depth=10.0)
    assert scores["abs_rel"] == pytest.approx((4 / 5 + 2 / 8) / 2)
    assert scores["delta1"] == pytest.approx(0)  # 10 / 8 is 1.25, not less


@pytest.mark.parametrize("average", ["image", "pixel"])
def test_a_prediction_of_nan_makes_all_scores_nan(average: str) -> None:
    target = torch.full((3, 1, 1, 4), 20.0)
    prediction = target.clone()
    prediction[1, ..., 1] = math.nan
    assert all(math.isnan(score) for score in scores_of(prediction, target, average=average).values())
    target[1, ..., 1] = 0  # where there is no ground truth, nothing is scored
    assert scores_of(prediction, target, average=average)["delta1"] == 1


def test_predictions_that_are_no_depth_are_clamped_with_a_warning_that_counts_them() -> None:
    target = torch.full((1, 1, 1, 6), 20.0)
    target[..., 5] = 0
    prediction = torch.tensor([[[[20.0, 0.0, -3.0, math.inf, 0.5, -1.0]]]])
    with pytest.warns(UserWarning, match="3 scored predictions are no depth, but 0 or less or infinite"):
        scores = scores_of(prediction, target, min_depth=1.0)
    assert scores["abs_rel"] == pytest.approx((3 * 19 / 20 + 60 / 20) / 5)


@pytest.mark.parametrize(
    ("crop", "size", "rows", "columns"),
    [
        ("garg", (352, 1216), (143, 349), (43, 1172)),
        ("garg", (375, 1242), (153, 371), (44, 1197)),
        ("eigen", (352, 1216), (117, 321), (43, 1172)),
        ("nyu", (480, 640), (45, 471), (41, 601)),
        ("nyu", (240, 320), (22, 235), (20, 300)),
        (None, (20, 30), (0, 20), (0, 30)),
    ],
)
def test_pixels_count_inside_the_crop_alone(
    crop: str | None, size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    target = torch.zeros(1, 1, *size)
    target[..., slice(*rows), slice(*columns)] = 10  # right inside, missing outside: wrong pixels would count
    corners = [(row, column) for row in (rows[0], rows[1] - 1) for column in (columns[0], columns[1] - 1)]
    prediction = target.clone()
    for row, column in corners:
        prediction[..., row, column] = 20
    inside = (rows[1] - rows[0]) * (columns[1] - columns[0])
    scores = scores_of(prediction, torch.where(target == 0, 50, target), crop=crop)
    assert scores["abs_rel"] == pytest.approx(4 / inside, rel=1e-12)


def test_ignored_rows_do_not_count() -> None:
    prediction, target = maps()
    expected = mean_errors(prediction[:, :, 5:], target[:, :, 5:])
    assert scores_of(prediction, target, ignore_top_rows=5) == pytest.approx(expected, rel=1e-12)
    below_crop = scores_of(prediction, target, crop="garg", ignore_top_rows=2)
    assert below_crop == scores_of(prediction, target, crop="garg")


@pytest.mark.parametrize("average", ["image", "pixel"])
def test_images_without_a_target_do_not_count(average: str) -> None:
    prediction, target = maps()
    expected = scores_of(prediction[1:], target[1:], average=average)
    target[0] = 0
    assert scores_of(prediction, target, average=average) == pytest.approx(expected, rel=1e-14)
    nothing = scores_of(prediction[:1], target[:1], average=average)
    assert all(math.isnan(value) for value in nothing.values())


def test_half_precision_is_scored_as_what_it_holds() -> None:
    prediction, target = maps()
    assert scores_of(prediction.half(), target) == scores_of(prediction.half().float(), target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_depth": 0.0}, "min_depth must lie between 0 and max_depth, got 0.0 and 80.0"),
        ({"max_depth": 1e-4}, "min_depth must lie between 0 and max_depth, got 0.001 and 0.0001"),
        ({"crop": "kitti"}, "crop must be one of garg, eigen, nyu, None, got 'kitti'"),
        ({"average": "batch"}, "average must be one of image, pixel, got 'batch'"),
        ({"ignore_top_rows": -1}, "ignore_top_rows must be at least 0, got -1"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DepthScores(**options)


@pytest.mark.parametrize("shapes", [((2, 1, 4, 4), (2, 1, 4, 5)), ((2, 4, 4), (2, 4, 4)), ((2, 2, 4, 4),) * 2])
def test_shapes_that_do_not_belong_together_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"prediction and target must have the same shape \(N, 1, H, W\), got"):
        DepthScores().update(torch.ones(shapes[0]), torch.ones(shapes[1]))
