import math

import pytest
import torch
from hypothesis import given

from distill.losses import kd_loss
from tests.losses.cases import (
    Case,
    assert_near,
    by_equation,
    cases,
    few_examples,
    gradient,
    kl,
    random_case,
    softmax,
    temperatures,
)


@few_examples
@given(cases(), temperatures)
def test_value_and_gradient_are_those_of_the_equation(case: Case, temperature: float) -> None:
    def actual(student: torch.Tensor) -> torch.Tensor:
        return kd_loss(student, case.teacher, temperature=temperature, target=case.target, reduction="none")

    def equation(student: torch.Tensor) -> torch.Tensor:
        return temperature**2 * by_equation(
            case._replace(student=student), lambda s, t, _: kl(softmax(t / temperature), softmax(s / temperature))
        )

    assert_near(actual(case.student), equation(case.student))
    assert_near(gradient(actual, case.student), gradient(equation, case.student))


def test_two_classes_by_hand() -> None:
    student = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)  # probabilities 3/4 and 1/4
    assert kd_loss(student, teacher).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-15)


def test_equal_logits_give_exactly_zero() -> None:
    student, teacher, _ = random_case(spatial=(2, 2))
    assert kd_loss(teacher.float(), teacher.float(), temperature=3.0, reduction="none").eq(0).all()
    constant_added = kd_loss(student + 7, student, reduction="none")
    assert_near(constant_added, torch.zeros_like(constant_added))


def test_temperature_squared_keeps_the_gradient_in_size() -> None:
    student, teacher, _ = random_case(scale=0.01)
    student.requires_grad_()
    (cold,) = torch.autograd.grad(kd_loss(student, teacher, temperature=10.0), student)
    (hot,) = torch.autograd.grad(kd_loss(student, teacher, temperature=40.0), student)
    assert cold.abs().max() > 1e-4
    torch.testing.assert_close(cold, hot, rtol=0.01, atol=1e-6)


def test_mean_is_over_positions_and_not_over_classes() -> None:
    student, teacher, _ = random_case(samples=2, classes=5, spatial=(3, 2))
    losses = kd_loss(student, teacher, reduction="none")
    assert losses.shape == (2, 3, 2)
    assert_near(kd_loss(student, teacher), losses.sum() / 12)
    assert_near(kd_loss(student, teacher, reduction="sum"), losses.sum())


def test_classes_may_be_more_than_the_ignored_index() -> None:
    student, teacher, _ = random_case(samples=4, classes=300)
    target = torch.tensor([255, 299, 0, -100])
    losses = kd_loss(student, teacher, target=target, ignore_index=-100, reduction="none")
    assert losses[:3].gt(0).all()
    assert losses[3] == 0


def test_no_gradient_flows_to_the_teacher() -> None:
    student, teacher, target = random_case()
    teacher.requires_grad_()
    assert not kd_loss(student, teacher, target=target).requires_grad


def test_second_derivatives_exist() -> None:
    student, teacher, _ = random_case(samples=2, classes=3)
    assert torch.autograd.gradgradcheck(lambda s: kd_loss(s, teacher, temperature=2.0), student.requires_grad_())
