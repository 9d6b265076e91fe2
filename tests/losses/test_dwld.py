from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.losses import dkd_loss, dwld_loss, dwld_terms, kd_loss
from distill.losses.dwld import Form
from tests.losses.cases import (
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

forms = pytest.mark.parametrize("form", get_args(Form))


def random_beta(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return 9 * torch.rand(case.student.shape, generator=generator, dtype=torch.float64) + 1


def ncld_equation(case: Case, beta: Tensor, temperature: float, form: str) -> Tensor:
    """Eq. 10's second sum with KL(teacher || student), pixel by pixel."""
    classes = case.student.shape[1]
    weights = iter(beta.movedim(1, -1).reshape(-1, classes)[case.target.flatten() != 255])

    def at_position(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        p_s, p_t = (softmax(nontarget(logits / temperature, target)) for logits in (student, teacher))
        terms = p_t * (p_t / p_s).log() + (0 if form == "kl" else p_s - p_t)
        return temperature**2 * (nontarget(next(weights), target) * terms).sum()

    return by_equation(case, at_position)


def tcld_equation(case: Case, temperature: float) -> Tensor:
    def at_position(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        b_s, b_t = (
            torch.stack([p[target], nontarget(p, target).sum()])
            for p in (softmax(student / temperature), softmax(teacher / temperature))
        )
        return temperature**2 * kl(b_t, b_s)

    return by_equation(case, at_position)


@few_examples
@given(cases(), temperatures, st.sampled_from(get_args(Form)))
def test_values_and_gradients_are_those_of_the_equations(case: Case, temperature: float, form: Form) -> None:
    beta = random_beta(case)

    def actual(student: Tensor, beta: Tensor) -> Tensor:
        tcld, ncld = dwld_terms(student, case.teacher, case.target, beta, temperature=temperature, form=form)
        return torch.stack([tcld, ncld])

    def expected(student: Tensor, beta: Tensor) -> Tensor:
        changed = case._replace(student=student)
        return torch.stack([tcld_equation(changed, temperature), ncld_equation(changed, beta, temperature, form)])

    assert_near(actual(case.student, beta), expected(case.student, beta))
    for_student = gradient(lambda s: actual(s, beta), case.student), gradient(lambda s: expected(s, beta), case.student)
    assert_near(*for_student, 1e-8)
    for_beta = gradient(lambda b: actual(case.student, b), beta), gradient(lambda b: expected(case.student, b), beta)
    assert_near(*for_beta, 1e-8)


@forms
@pytest.mark.parametrize("beta", [0.0, 1.0, 8.0])
def test_a_constant_weight_makes_it_dkd(form: Form, beta: float) -> None:
    student, teacher, target = random_case(samples=4, classes=6, spatial=(3, 2))
    weights = torch.full_like(student, beta)
    actual = dwld_loss(student, teacher, target, weights, alpha=2.0, temperature=3.0, form=form, reduction="none")
    dkd = dkd_loss(student, teacher, target, alpha=2.0, beta=beta, temperature=3.0, reduction="none")
    assert_near(actual, dkd, 1e-12)


@forms
def test_the_teachers_doubt_as_weight_makes_it_kd(form: Form) -> None:
    student, teacher, target = random_case(samples=4, classes=6, spatial=(3, 2))
    counted = torch.where(target == 255, 0, target)
    doubt = 1 - teacher.softmax(1).gather(1, counted[:, None])
    actual = dwld_loss(student, teacher, target, doubt.expand_as(student), form=form, reduction="none")
    assert_near(actual, kd_loss(student, teacher, target=target, reduction="none"), 1e-12)


def test_with_unequal_weights_only_the_bregman_form_is_never_negative() -> None:
    case = random_case(samples=40, classes=5)
    lazy = torch.where(case.student.softmax(1) > case.teacher.softmax(1), 10.0, 1.0).double()
    values = {form: dwld_terms(*case, lazy, form=form)[1] for form in get_args(Form)}
    assert values["kl"].min() < -0.5
    assert values["bregman"].min() >= 0


@forms
def test_the_weight_of_the_target_class_is_not_read(form: Form) -> None:
    case = random_case(samples=6, classes=4)
    beta = random_beta(case)
    changed = beta.scatter(1, torch.where(case.target == 255, 0, case.target)[:, None], 1e9)
    counted = case.target != 255
    first, second = (dwld_loss(*case, weights, form=form, reduction="none") for weights in (beta, changed))
    assert torch.equal(first[counted], second[counted])


def test_weights_of_another_shape_and_an_unknown_form_are_refused() -> None:
    student, teacher, target = random_case(samples=2, spatial=(3,))
    with pytest.raises(ValueError, match=r"beta must have the shape of the logits, \(2, 4, 3\), got \(2, 4, 1\)"):
        dwld_loss(student, teacher, target, torch.ones(2, 4, 1))
    with pytest.raises(ValueError, match="form must be one of kl, bregman, got 'js'"):
        dwld_loss(student, teacher, target, torch.ones_like(student), form="js")  # type: ignore[arg-type]
