from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor

from distill.metrics import MultiLabelScores

NAMES = ["cat", "dog", "fish"]


def labelled() -> tuple[Tensor, Tensor]:
    """Logits with ties, and labels of which some are unknown."""
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(40, 3, generator=generator)).round(decimals=1)
    target = torch.randint(2, (40, 3), generator=generator)
    target[::5, 1] = -1
    return logits, target


def scored(logits: Tensor, target: Tensor, **arguments: Any) -> dict[str, Tensor]:
    scores = MultiLabelScores(logits.shape[1], **arguments)
    for rows in torch.arange(len(logits)).split(7):
        scores.update(logits[rows], target[rows])
    return scores.compute()


def test_the_scores_are_those_of_scikit_learn_over_the_known_labels() -> None:
    logits, target = labelled()
    scores = scored(logits, target, class_names=NAMES)
    columns = [(logits[known, c], target[known, c]) for c, known in enumerate((target >= 0).T)]
    precisions = [average_precision_score(y, x) for x, y in columns]
    assert [scores[f"ap_{name}"].item() for name in NAMES] == pytest.approx(precisions)
    assert scores["mAP"].item() == pytest.approx(sum(precisions) / 3)
    assert scores["macro_f1"].item() == pytest.approx(sum(f1_score(y, x >= 0) for x, y in columns) / 3)
    x, y = (torch.cat(parts) for parts in zip(*columns, strict=True))
    assert scores["micro_f1"].item() == pytest.approx(f1_score(y, x >= 0))
    assert scores["accuracy"].item() == pytest.approx(((x >= 0) == y).double().mean().item())


def test_labels_may_be_of_any_type_and_unknown_ones_of_any_value() -> None:
    logits, target = labelled()
    expected = scored(logits, target)
    known = target.clamp(min=0).bool()
    assert scored(logits, torch.where(target < 0, torch.nan, target.float())) == expected
    assert scored(logits, torch.where(target < 0, 7, target), ignore_index=7) == expected
    assert scored(logits, known) == scored(logits, known.double()) == scored(logits, 0.4 + 0.1 * known)


def test_maps_are_scored_like_their_positions_and_one_label_needs_no_channel() -> None:
    logits, target = labelled()
    maps = [values.view(2, 4, 5, 3).movedim(-1, 1) for values in (logits, target)]
    assert scored(maps[0], maps[1]) == scored(logits, target)
    assert scored(logits[:, :1], target[:, 0]) == scored(logits[:, :1], target[:, :1])


def test_intervals_give_the_exact_scores_where_predictions_lie_in_different_ones() -> None:
    logits, target = labelled()
    exact, counted = scored(logits, target), scored(logits, target, thresholds=1000)
    assert {name: value.item() for name, value in counted.items()} == pytest.approx(
        {name: value.item() for name, value in exact.items()}
    )
    assert scored(logits, target, thresholds=2)["mAP"] != exact["mAP"]


def test_large_logits_keep_their_order() -> None:
    logits = torch.tensor([[100.0], [200.0], [300.0]])  # their sigmoids are all 1 in float32
    assert scored(logits, torch.tensor([[0], [0], [1]]))["mAP"] == 1


def test_a_label_without_a_positive_sample_does_not_count_in_the_mean() -> None:
    scores = scored(torch.tensor([[1.0, 1.0], [-1.0, 2.0]]), torch.tensor([[1, 0], [0, 0]]), class_names=["a", "b"])
    assert scores["mAP"] == scores["ap_a"] == 1
    assert scores["ap_b"].isnan()


@pytest.mark.parametrize("thresholds", [None, 10])
def test_a_logit_of_nan_makes_the_scores_nan_where_the_label_is_known(thresholds: int | None) -> None:
    logits = torch.tensor([[torch.nan], [1.0], [0.0]])
    assert not any(v.isnan() for v in scored(logits, torch.tensor([[-1], [1], [0]]), thresholds=thresholds).values())
    assert all(v.isnan() for v in scored(logits, torch.tensor([[0], [1], [0]]), thresholds=thresholds).values())
