from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.losses import sp_loss
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients, rotation


def equation(student: Tensor, teacher: Tensor) -> Tensor:
    """Tung and Mori, pair by pair."""
    tables = []
    for rows in (student.flatten(1), teacher.flatten(1)):
        table = []
        for one in rows:
            similarities = torch.stack([torch.dot(one, other) for other in rows])
            table.append(similarities / (similarities**2).sum().sqrt())
        tables.append(torch.stack(table))
    return ((tables[1] - tables[0]) ** 2).sum() / len(student) ** 2


@pytest.mark.parametrize("size", [(3,), (2, 3, 2)])
def test_values_and_gradients_are_those_of_the_equation(size: tuple[int, ...]) -> None:
    student, teacher = features(5, *size), features(5, 6, seed=1)
    assert_near(sp_loss(student, teacher), equation(student, teacher))
    (actual,), (expected,) = (gradients(lambda s, f=f: f(s, teacher), student) for f in (sp_loss, equation))
    assert_near(actual, expected)


def test_computed_by_hand() -> None:
    orthogonal, equal = torch.eye(2), torch.ones(2, 3)
    half = 1 / math.sqrt(2)  # rows (1, 0) and (0, 1) against (1, 1) / sqrt 2
    assert sp_loss(orthogonal, equal).item() == pytest.approx(2 * ((1 - half) ** 2 + half**2) / 4)


def test_scale_and_rotation_do_not_matter() -> None:
    student, teacher = features(5, 4), features(5, 3, seed=1)
    changed = 7 * student @ rotation(4)
    assert_near(sp_loss(changed, teacher), sp_loss(student, teacher))
    assert_near(sp_loss(changed, student), torch.zeros((), dtype=torch.float64))
