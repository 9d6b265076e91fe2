from __future__ import annotations

import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor

from distill.metrics import RegressionScores


def measured() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = 5 + torch.randn(30, 2, generator=generator)
    prediction = target + torch.randn(30, 2, generator=generator)
    target[::4, 1] = torch.nan
    return prediction, target


def scored(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    scores = RegressionScores(prediction.shape[1], [f"y{i}" for i in range(prediction.shape[1])])
    for rows in torch.arange(len(prediction)).split(7):
        scores.update(prediction[rows], target[rows])
    return scores.compute()


def test_the_scores_are_those_of_scikit_learn_over_the_measured_numbers() -> None:
    prediction, target = measured()
    scores = scored(prediction, target)
    columns = [(target[known, i], prediction[known, i]) for i, known in enumerate(~target.isnan().T)]
    for i, column in enumerate(columns):
        assert scores[f"mae_y{i}"].item() == pytest.approx(mean_absolute_error(*column))
        assert scores[f"rmse_y{i}"].item() == pytest.approx(root_mean_squared_error(*column))
        assert scores[f"r2_y{i}"].item() == pytest.approx(r2_score(*column))
    pooled = [torch.cat(parts) for parts in zip(*columns, strict=True)]
    assert scores["mae"].item() == pytest.approx(mean_absolute_error(*pooled))
    assert scores["rmse"].item() == pytest.approx(root_mean_squared_error(*pooled))
    assert scores["r2"].item() == pytest.approx((scores["r2_y0"] + scores["r2_y1"]).item() / 2)


def test_maps_are_scored_like_their_positions_and_one_output_needs_no_channel() -> None:
    prediction, target = measured()
    maps = [values.view(2, 3, 5, 2).movedim(-1, 1) for values in (prediction, target)]
    assert RegressionScores(2)(*maps) == RegressionScores(2)(prediction, target)
    assert scored(prediction[:, :1], target[:, 0]) == scored(prediction[:, :1], target[:, :1])


def test_equal_numbers_have_no_coefficient_of_determination_and_do_not_count_in_the_mean() -> None:
    scores = scored(torch.tensor([[0.1, 1.0], [0.3, 2.0]]), torch.tensor([[0.2, 1.0], [0.2, 2.0]]))
    assert scores["r2_y0"].isnan()
    assert scores["r2"] == scores["r2_y1"] == 1


def test_a_prediction_of_nan_makes_the_scores_nan_where_a_number_was_measured() -> None:
    target = torch.tensor([[torch.nan, 0.0], [1.0, 1.0], [2.0, 2.0]])
    spoilt = torch.full_like(target, 1.5)
    spoilt[0, 0] = torch.nan
    assert not any(value.isnan() for value in scored(spoilt, target).values())
    spoilt[1, 0] = torch.nan
    scores = scored(spoilt, target)
    assert all(scores[name].isnan() for name in ("mae", "rmse", "r2", "mae_y0", "r2_y0"))
    assert not scores["mae_y1"].isnan()
