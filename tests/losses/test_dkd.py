import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.losses import decoupled_kd_terms, dkd_loss, kd_loss
from tests.losses.cases import (
    IGNORED,
    Case,
    assert_near,
    by_equation,
    cases,
    few_examples,
    gradient,
    kl,
    nontarget,
    random_case,
    softmax,
    temperatures,
)


def tckd_equation(case: Case, temperature: float) -> Tensor:
    def at_position(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        b_s, b_t = (
            torch.stack([p[target], nontarget(p, target).sum()])
            for p in (softmax(student / temperature), softmax(teacher / temperature))
        )
        return temperature**2 * kl(b_t, b_s)

    return by_equation(case, at_position)


def nckd_equation(case: Case, temperature: float) -> Tensor:
    def at_position(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        p_s, p_t = (softmax(nontarget(logits / temperature, target)) for logits in (student, teacher))
        return temperature**2 * kl(p_t, p_s)

    return by_equation(case, at_position)


@few_examples
@given(cases(), temperatures, st.sampled_from([(0, tckd_equation), (1, nckd_equation)]))
def test_values_and_gradients_are_those_of_the_equations(
    case: Case, temperature: float, term: tuple[int, Callable[[Case, float], Tensor]]
) -> None:
    index, equation = term

    def actual(student: Tensor) -> Tensor:
        return decoupled_kd_terms(student, case.teacher, case.target, temperature=temperature)[index]

    def expected(student: Tensor) -> Tensor:
        return equation(case._replace(student=student), temperature)

    assert_near(actual(case.student), expected(case.student))
    assert_near(gradient(actual, case.student), gradient(expected, case.student))


@few_examples
@given(cases(), temperatures)
def test_kd_is_the_target_term_and_the_nontarget_term_by_the_teachers_doubt(case: Case, temperature: float) -> None:
    tckd, nckd = decoupled_kd_terms(case.student, case.teacher, case.target, temperature=temperature)
    doubt = by_equation(case, lambda _, t, k: 1 - softmax(t / temperature)[k])
    kd = kd_loss(case.student, case.teacher, temperature=temperature, target=case.target, reduction="none")
    assert_near(kd, tckd + doubt * nckd)


@few_examples
@given(cases(), temperatures)
def test_dkd_weighs_the_two_terms(case: Case, temperature: float) -> None:
    student, teacher, target = case
    tckd, nckd = decoupled_kd_terms(student, teacher, target, temperature=temperature)
    loss = partial(dkd_loss, student, teacher, target, alpha=0.3, beta=5.0, temperature=temperature)
    losses = loss(reduction="none")
    assert_near(losses, 0.3 * tckd + 5.0 * nckd)
    assert_near(loss(reduction="sum"), losses.sum())
    counted = int((target != IGNORED).sum())
    assert_near(loss(), losses.sum() / max(counted, 1))


def test_defaults_are_those_of_the_paper() -> None:
    case = random_case()
    assert dkd_loss(*case) == dkd_loss(*case, alpha=1.0, beta=8.0, temperature=4.0, reduction="mean")


def test_three_classes_by_hand() -> None:
    student = torch.zeros(1, 3, dtype=torch.float64)
    teacher = torch.tensor([[2.0, 3.0, 1.0]], dtype=torch.float64).log()
    tckd, nckd = decoupled_kd_terms(student, teacher, torch.tensor([0]))
    assert tckd.item() == pytest.approx(1 / 3 * math.log(1) + 2 / 3 * math.log(1), abs=1e-15)
    assert nckd.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, 3.0, 1000.0])
def test_two_classes_have_no_nontarget_term_and_no_gradient_of_it(dtype: torch.dtype, gap: float) -> None:
    student = torch.tensor([[gap, 0.0], [0.0, gap]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.0, gap], [0.3, 0.2]], dtype=dtype)
    _, nckd = decoupled_kd_terms(student, teacher, torch.tensor([0, 1]), temperature=2.0)
    (of_nckd,) = torch.autograd.grad(nckd.sum(), student)
    assert nckd.eq(0).all()
    assert of_nckd.eq(0).all()


@pytest.mark.parametrize("target", [0, 1, 2])
def test_the_targets_logit_does_not_leak_into_the_nontarget_term(target: int) -> None:
    student, teacher = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    raised = student.clone()
    raised[0, target] += 1e6
    of_student, of_raised = (decoupled_kd_terms(s, teacher, torch.tensor([target]))[1] for s in (student, raised))
    assert of_student == of_raised


def test_nontarget_classes_far_below_the_target_keep_their_distribution() -> None:
    student, teacher = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 2.0]])
    far_below = torch.tensor([[0.0, -2048.0, -2048.0]])
    target = torch.tensor([0])
    _, expected = decoupled_kd_terms(student, teacher, target)
    _, nckd = decoupled_kd_terms(student + far_below, teacher + far_below, target)
    assert expected > 0.1
    torch.testing.assert_close(nckd, expected, rtol=1e-6, atol=0)


def test_a_gap_of_1000_by_hand() -> None:
    student = torch.tensor([[1000.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1000.0, 0.0]])
    tckd, nckd = decoupled_kd_terms(student, teacher, torch.tensor([0]))
    assert tckd.item() == pytest.approx(1000 - math.log(2), rel=1e-6)
    assert nckd.item() == pytest.approx(math.log(2), rel=1e-6)
    (of_tckd,) = torch.autograd.grad(tckd.sum(), student, retain_graph=True)
    (of_nckd,) = torch.autograd.grad(nckd.sum(), student)
    torch.testing.assert_close(of_tckd, torch.tensor([[1.0, -0.5, -0.5]]))
    torch.testing.assert_close(of_nckd, torch.tensor([[0.0, -0.5, 0.5]]))


def test_a_class_that_does_not_exist_is_refused() -> None:
    with pytest.raises((RuntimeError, IndexError)):
        decoupled_kd_terms(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([7]))


def test_no_gradient_flows_to_the_teacher() -> None:
    student, teacher, target = random_case()
    teacher.requires_grad_()
    assert not dkd_loss(student, teacher, target).requires_grad


def test_second_derivatives_exist() -> None:
    student, teacher, target = random_case(samples=2)
    assert torch.autograd.gradgradcheck(lambda s: dkd_loss(s, teacher, target), student.requires_grad_())
