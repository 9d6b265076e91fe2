from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.losses import factor_loss
from tests.losses.cases import assert_near, gradient
from tests.losses.features import features


def equation(student: Tensor, teacher: Tensor) -> Tensor:
    values = []
    for of_student, of_teacher in zip(student.flatten(1), teacher.flatten(1), strict=True):
        a, b = of_student / (of_student**2).sum().sqrt(), of_teacher / (of_teacher**2).sum().sqrt()
        values.append(sum(((x - y).abs() for x, y in zip(a, b, strict=True)), of_student.new_zeros(())) / len(a))
    return torch.stack(values)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 2, 2, 3)])
def test_values_and_gradients_are_those_of_the_equation(shape: tuple[int, ...]) -> None:
    student, teacher = features(*shape), features(*shape, seed=1)
    assert_near(factor_loss(student, teacher, reduction="none"), equation(student, teacher))
    assert_near(factor_loss(student, teacher), equation(student, teacher).mean())
    assert_near(
        gradient(lambda s: factor_loss(s, teacher, reduction="none"), student),
        gradient(lambda s: equation(s, teacher), student),
    )


def test_computed_by_hand_and_scale_does_not_matter() -> None:
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 7.0]])
    assert factor_loss(student, teacher).item() == pytest.approx((0.6 + 0.2) / 2)
    assert factor_loss(9 * student, 0.1 * teacher).item() == pytest.approx((0.6 + 0.2) / 2)


def test_factors_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same shape \(N, K, \*\), got \(2, 3, 4\) and \(2, 3, 2\)"):
        factor_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 2))
