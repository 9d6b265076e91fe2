from __future__ import annotations

import pytest
import torch

from distill.errors import UserError
from distill.losses import dice_loss

SMOOTH = 0.5


def test_loss_is_the_equation_written_out_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(3, (2, 2, 3, 4), generator=generator)
    target[0, 0, 0] = 255
    expected = []
    for sample, labels in zip(logits, target, strict=True):
        probabilities, counted = sample.softmax(0), labels != 255
        overlaps = []
        for label in (1, 2):
            p, y = probabilities[label][counted], (labels[counted] == label).double()
            overlaps.append((2 * (p * y).sum() + SMOOTH) / (p.sum() + y.sum() + SMOOTH))
        expected.append(1 - (overlaps[0] + overlaps[1]) / 2)
    result = dice_loss(logits, target, smooth=SMOOTH, reduction="none")
    torch.testing.assert_close(result, torch.stack(expected))
    (slope,) = torch.autograd.grad(result.sum(), logits, retain_graph=True)
    (expected_slope,) = torch.autograd.grad(torch.stack(expected).sum(), logits)
    torch.testing.assert_close(slope, expected_slope)


def test_a_perfect_prediction_has_no_loss_also_where_classes_are_absent() -> None:
    target = torch.tensor([[0, 1, 2, 1], [0, 0, 0, 0]])
    logits = 100 * torch.nn.functional.one_hot(target, 3).transpose(1, 2).float()
    assert dice_loss(logits, target, reduction="none").tolist() == pytest.approx([0, 0], abs=1e-6)


def test_a_sample_without_a_label_has_no_loss_and_does_not_count_in_the_mean() -> None:
    target = torch.tensor([[0, 1], [255, 255]])
    logits = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0))
    first, second = dice_loss(logits, target, reduction="none")
    assert second == 0
    assert dice_loss(logits, target) == first


def test_smooth_must_be_positive() -> None:
    with pytest.raises(UserError, match="smooth must be positive, got 0"):
        dice_loss(torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.int64), smooth=0)
