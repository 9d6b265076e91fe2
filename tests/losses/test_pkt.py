from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.losses import pkt_loss
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients, rotation


def equation(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    """Pair by pair."""
    tables = []
    for rows in (student.flatten(1), teacher.flatten(1)):
        table = []
        for one in rows:
            kernel = torch.stack([(torch.dot(one, other) / (one.norm() * other.norm()) + 1) / 2 for other in rows])
            table.append(kernel / kernel.sum())
        tables.append(torch.stack(table))
    q, p = tables
    return (p * ((p + eps) / (q + eps)).log()).sum() / len(p) ** 2


@pytest.mark.parametrize("size", [(3,), (2, 3, 2)])
def test_values_and_gradients_are_those_of_the_equation(size: tuple[int, ...]) -> None:
    student, teacher = features(5, *size), features(5, 6, seed=1)
    assert_near(pkt_loss(student, teacher), equation(student, teacher))
    (actual,), (expected,) = (gradients(lambda s, f=f: f(s, teacher), student) for f in (pkt_loss, equation))
    assert_near(actual, expected)


def test_computed_by_hand() -> None:
    # neighbourhoods (2/3, 1/3) of orthogonal samples against (1/2, 1/2) of equal ones
    expected = 2 * (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))) / 4
    assert pkt_loss(torch.eye(2), torch.ones(2, 3)).item() == pytest.approx(expected, rel=1e-4)


def test_opposite_samples_are_finite() -> None:
    student = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert pkt_loss(student, torch.ones(2, 2)).isfinite()
    (slope,) = gradients(lambda s: pkt_loss(s, torch.ones(2, 2)), student)
    assert slope.isfinite().all()


def test_scale_and_rotation_do_not_matter() -> None:
    student, teacher = features(5, 4), features(5, 3, seed=1)
    changed = 7 * student @ rotation(4)
    assert_near(pkt_loss(changed, teacher), pkt_loss(student, teacher))
    assert_near(pkt_loss(changed, student), torch.zeros((), dtype=torch.float64))
