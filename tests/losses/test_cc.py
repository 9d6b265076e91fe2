from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.losses import cc_loss
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients, rotation


def equation(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Pair by pair, the series term by term."""
    tables = []
    for embeddings in (student.flatten(1), teacher.flatten(1)):
        rows = [row / row.norm() for row in embeddings]
        tables.append(
            torch.stack(
                [
                    math.exp(-2 * gamma)
                    * sum(
                        ((2 * gamma) ** p / math.factorial(p) * torch.dot(x, y) ** p for p in range(order + 1)),
                        x[0] * 0,
                    )
                    for x in rows
                    for y in rows
                ]
            )
        )
    return ((tables[0] - tables[1]) ** 2).sum() / len(student) ** 2


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("size", [(3,), (2, 3, 2)])
def test_values_and_gradients_of_both_sides_are_those_of_the_equation(size: tuple[int, ...], order: int) -> None:
    student, teacher = features(5, *size), features(5, 6, seed=1)

    def actual(s: Tensor, t: Tensor) -> Tensor:
        return cc_loss(s, t, order=order, teacher_gradient=True)

    def expected(s: Tensor, t: Tensor) -> Tensor:
        return equation(s, t, order=order)

    assert_near(actual(student, teacher), expected(student, teacher))
    for one, other in zip(gradients(actual, student, teacher), gradients(expected, student, teacher), strict=True):
        assert_near(one, other)


def test_of_a_high_order_it_is_the_gaussian_kernel() -> None:
    student, teacher = features(4, 3), features(4, 5, seed=1)
    kernels = []
    for x in (student, teacher):
        directions = x / x.norm(dim=1, keepdim=True)
        kernels.append((-0.7 * torch.cdist(directions, directions).square()).exp())
    assert_near(cc_loss(student, teacher, gamma=0.7, order=20), (kernels[0] - kernels[1]).square().mean())


def test_order_of_the_batch_scale_and_rotation_do_not_matter() -> None:
    student, teacher = features(5, 4), features(5, 3, seed=1)
    order = [3, 1, 4, 0, 2]
    assert_near(cc_loss(student[order], teacher[order]), cc_loss(student, teacher))
    changed = 7 * student @ rotation(4)
    assert_near(cc_loss(changed, teacher), cc_loss(student, teacher))
    assert_near(cc_loss(changed, student), torch.zeros((), dtype=torch.float64))


def test_wrong_hyper_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="gamma must be positive, got 0"):
        cc_loss(torch.zeros(2, 2), torch.zeros(2, 2), gamma=0)
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        cc_loss(torch.zeros(2, 2), torch.zeros(2, 2), order=0)
