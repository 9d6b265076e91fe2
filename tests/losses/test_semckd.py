from __future__ import annotations

import pytest
import torch

from distill.losses import semckd_loss
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients


def test_it_is_the_attention_weighted_mean_squared_error() -> None:
    teachers = [features(3, 2, 4, 4, seed=10), features(3, 5, 2, 2, seed=11)]
    students = [[features(3, *t.shape[1:], seed=20 + 2 * a + b) for b, t in enumerate(teachers)] for a in range(3)]
    attention = features(3, 3, 2).softmax(2)
    expected = []
    for n in range(3):
        value = torch.zeros((), dtype=torch.float64)
        for a in range(3):
            for b in range(2):
                difference = students[a][b][n] - teachers[b][n]
                value = value + attention[n, a, b] * (difference**2).sum() / difference.numel()
        expected.append(value / 3)
    assert_near(semckd_loss(students, teachers, attention, reduction="none"), torch.stack(expected))
    assert_near(semckd_loss(students, teachers, attention), torch.stack(expected).mean())


def test_gradients_flow_to_the_attention_and_not_to_the_teacher() -> None:
    teacher = features(2, 3).requires_grad_()
    student = teacher.detach() + 2  # a squared error of 4
    assert_near(
        gradients(lambda a: semckd_loss([[student]], [teacher], a), torch.ones(2, 1, 1))[0], torch.full((2, 1, 1), 2.0)
    )
    attention = torch.ones(2, 1, 1).requires_grad_()
    semckd_loss([[student]], [teacher], attention).backward()
    assert teacher.grad is None


def test_attention_of_another_shape_is_refused() -> None:
    layer = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"\(samples, student layers, teacher layers\) = \(4, 1, 2\)"):
        semckd_loss([[layer, layer]], [layer, layer], torch.ones(4, 2, 1))
    with pytest.raises(ValueError, match="one projection for each of the teacher's"):
        semckd_loss([[layer]], [layer, layer], torch.ones(4, 1, 2))
