"""What a stage of evaluation gathers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distill import Classification
from distill.training.scores import StageScores


def test_scores_are_over_all_samples_of_all_batches_and_are_reset_when_they_are_taken() -> None:
    task = Classification(3)
    scores = StageScores(task, "val")
    logits = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 1], [1, 0, 0]])
    target = torch.tensor([0, 1, 0, 255])
    scores.update(logits[:1], {"target": target[:1]}, task)
    scores.update(logits[1:], {"target": target[1:]}, task)
    taken = scores.take()
    assert taken.keys() == {"val/accuracy", "val/macro_accuracy", "val/macro_f1", "val/hard"}
    assert float(taken["val/accuracy"]) == pytest.approx(2 / 3)
    assert float(taken["val/hard"]) == pytest.approx(float(F.cross_entropy(logits[:3], target[:3])))
    scores.update(logits[2:3], {"target": target[2:3]}, task)
    assert float(scores.take()["val/accuracy"]) == 0


def test_the_hard_loss_is_float32_under_autocast() -> None:
    task = Classification(2)
    scores = StageScores(task, "test")
    logits = torch.tensor([[1000.0, 0.0]])
    with torch.autocast("cpu", torch.bfloat16):
        scores.update(logits, {"target": torch.tensor([1])}, task)
    assert float(scores.take()["test/hard"]) == 1000


def test_a_loss_of_nan_makes_the_mean_nan() -> None:
    task = Classification(2)
    scores = StageScores(task, "val")
    scores.update(torch.zeros(3, 2), {"target": torch.tensor([0, 1, 255])}, task)
    scores.update(torch.tensor([[torch.nan, 0.0]]), {"target": torch.tensor([1])}, task)
    taken = scores.take()
    assert taken["val/hard"].isnan()
    assert taken["val/accuracy"].isnan()
