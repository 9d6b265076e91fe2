from __future__ import annotations

import pytest
import torch

from distill.errors import UserError
from distill.metrics import RegionDice

REGIONS = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}


def scores_of(predicted: list[list[int]], labelled: list[list[int]]) -> dict[str, float]:
    dice = RegionDice(REGIONS)
    for pair in zip(predicted, labelled, strict=True):
        dice.update(*(torch.tensor([part]) for part in pair))
    return {name: value.item() for name, value in dice.compute().items()}


def test_scores_of_a_region_are_those_computed_by_hand() -> None:
    # WT: 3 of 4 and 3 voxels agree, TC: 1 of 2 and 3, ET: 1 of 1 and 2
    scores = scores_of([[0, 1, 3, 2, 2]], [[0, 3, 3, 1, 0]])
    expected = {"dice_WT": 6 / 7, "dice_TC": 4 / 5, "dice_ET": 2 / 3}
    assert scores == pytest.approx({"dice": sum(expected.values()) / 3, **expected})


def test_scores_are_means_over_cases_and_not_over_voxels() -> None:
    small, large = [3, 0, 0, 0], [3, 3, 3, 3]
    scores = scores_of([[0, 0, 0, 0], large], [small, large])
    assert scores["dice_ET"] == pytest.approx((0 + 1) / 2)


def test_a_region_that_is_neither_labelled_nor_predicted_has_1_and_one_that_is_only_predicted_0() -> None:
    scores = scores_of([[0, 2, 2]], [[0, 2, 2]])
    assert (scores["dice_ET"], scores["dice_TC"], scores["dice_WT"]) == (1, 1, 1)
    assert scores_of([[3, 2, 2]], [[0, 2, 2]])["dice_ET"] == 0


def test_ignored_voxels_do_not_count() -> None:
    assert scores_of([[3, 3, 3, 0]], [[3, 255, 255, 0]])["dice_ET"] == 1
    assert scores_of([[3, 3], [3, 0]], [[255, 255], [3, 3]])["dice_ET"] == pytest.approx(2 / 3)


def test_undefined_logits_give_no_score() -> None:
    dice = RegionDice(REGIONS)
    logits = torch.zeros(1, 4, 3)
    logits[0, 2, 1] = torch.nan
    dice.update(logits, torch.tensor([[0, 255, 1]]))
    assert dice.compute()["dice"].isfinite()
    dice.update(logits, torch.tensor([[0, 1, 1]]))
    assert all(value.isnan() for value in dice.compute().values())


@pytest.mark.parametrize("regions", [{}, {"ET": []}, {"ET": [3, 3]}, {"ET": [-1]}])
def test_regions_that_make_no_sense_are_refused(regions: dict[str, list[int]]) -> None:
    with pytest.raises(UserError, match="regions"):
        RegionDice(regions)
