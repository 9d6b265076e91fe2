from __future__ import annotations

import math

import pytest
import torch

from distill import Classification


def test_it_is_the_share_of_right_classes_among_the_highest() -> None:
    metrics = Classification(7).metrics()
    logits = torch.arange(7.0).expand(4, 7)
    metrics.update(logits, torch.tensor([6, 2, 1, 255]))
    scores = metrics.compute()
    assert [scores[name].item() for name in ("accuracy", "top5")] == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize("undefined", [math.nan, -math.inf])
def test_undefined_logits_of_a_labelled_sample_make_it_nan(undefined: float) -> None:
    metrics = Classification(7).metrics()
    logits = torch.zeros(3, 7)
    logits[1] = undefined
    metrics.update(logits, torch.tensor([0, 255, 0]))
    assert not any(value.isnan() for value in metrics.compute().values())
    metrics.update(logits, torch.tensor([0, 1, 0]))
    assert all(value.isnan() for value in metrics.compute().values())
