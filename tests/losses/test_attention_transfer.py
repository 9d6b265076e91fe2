from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.losses import at_loss
from tests.losses.cases import assert_near, gradient
from tests.losses.features import features


def equation(student: Tensor, teacher: Tensor) -> Tensor:
    """Zagoruyko and Komodakis, position by position."""
    values = []
    for of_student, of_teacher in zip(student.flatten(2), teacher.flatten(2), strict=True):
        attention = [
            torch.stack(
                [sum((f[c, i] ** 2 for c in range(len(f))), of_student.new_zeros(())) for i in range(f.shape[1])]
            )
            / len(f)
            for f in (of_student, of_teacher)
        ]
        q_s, q_t = (q / (q**2).sum().sqrt() for q in attention)
        values.append(((q_s - q_t) ** 2).sum() / len(q_s))
    return torch.stack(values)


@pytest.mark.parametrize("size", [(5,), (2, 3), (1, 2, 2)])
def test_values_and_gradients_are_those_of_the_equation(size: tuple[int, ...]) -> None:
    student, teacher = features(3, 4, *size), features(3, 6, *size, seed=1)
    assert_near(at_loss(student, teacher, reduction="none"), equation(student, teacher))
    assert_near(at_loss(student, teacher), equation(student, teacher).mean())
    assert_near(
        gradient(lambda s: at_loss(s, teacher, reduction="none"), student),
        gradient(lambda s: equation(s, teacher), student),
    )


def test_computed_by_hand() -> None:
    student, teacher = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 3.0], [1.0, 1.0]]])
    # the attention of the student is (1, 0), that of the teacher (1, 1) / sqrt 2
    half = 1 / math.sqrt(2)
    assert at_loss(student, teacher).item() == pytest.approx(((1 - half) ** 2 + half**2) / 2)


def test_scale_and_order_of_the_channels_do_not_matter() -> None:
    student, teacher = features(2, 4, 3, 3), features(2, 4, 3, 3, seed=1)
    assert_near(at_loss(-5 * student.flip(1), teacher), at_loss(student, teacher))
    assert_near(at_loss(3 * teacher.flip(1), teacher), torch.zeros((), dtype=torch.float64))


def test_the_larger_map_is_pooled_before_its_attention_is_taken() -> None:
    student, teacher = features(2, 3, 4, 4), features(2, 5, 2, 2, seed=1)
    pooled = student.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))
    assert_near(at_loss(student, teacher), equation(pooled, teacher).mean())
    assert_near(at_loss(teacher, student), equation(teacher, pooled).mean())


def test_vectors_have_no_places_to_attend_to() -> None:
    with pytest.raises(ValueError, match=r"must be maps \(N, C, \*\) with positions, got \(2, 3\)"):
        at_loss(torch.zeros(2, 3), torch.zeros(2, 3))
