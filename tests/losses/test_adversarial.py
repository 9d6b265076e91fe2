from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from distill.losses import deception_loss, discriminator_loss
from distill.losses.adversarial import Form
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients

forms = pytest.mark.parametrize("form", get_args(Form))


def test_non_saturating_losses_are_cross_entropies() -> None:
    student, teacher = features(3, 4), features(3, 4, seed=1)
    of_student, of_teacher = 1 / (1 + (-student).exp()), 1 / (1 + (-teacher).exp())
    expected = (-of_teacher.log() - (1 - of_student).log()).mean(1)
    assert_near(discriminator_loss(student, teacher, reduction="none"), expected)
    assert_near(discriminator_loss(student, teacher), expected.mean())
    assert_near(deception_loss(student, reduction="none"), -of_student.log().mean(1))


def test_hinge_losses_by_hand() -> None:
    student, teacher = torch.tensor([[0.5], [-3.0]]), torch.tensor([[0.25], [2.0]])
    assert discriminator_loss(student, teacher, form="hinge", reduction="none").tolist() == [2.25, 0.0]
    assert deception_loss(student, form="hinge", reduction="none").tolist() == [-0.5, 3.0]


def test_an_unsure_discriminator_has_twice_log_2() -> None:
    scores = torch.zeros(2, 1, 3, 3)
    assert discriminator_loss(scores, scores).item() == pytest.approx(2 * math.log(2))
    assert deception_loss(scores).item() == pytest.approx(math.log(2))


@forms
def test_the_student_has_a_gradient_where_the_discriminator_is_sure(form: Form) -> None:
    (slope,) = gradients(lambda s: deception_loss(s, form=form), torch.tensor([-1000.0]))
    assert slope.item() == pytest.approx(-1)
    for scores in (torch.tensor([1000.0]), torch.tensor([-1000.0])):
        assert discriminator_loss(scores, -scores, form=form).isfinite()
        for slope in gradients(lambda s, t: discriminator_loss(s, t, form=form), scores, -scores):
            assert slope.isfinite().all()


def test_values_and_gradients_have_all_digits_from_one_end_of_the_numbers_to_the_other() -> None:
    scores = torch.cat([torch.linspace(-80, 80, 4001), torch.tensor([-torch.inf, -1000, 0, 1000, torch.inf])])
    exact = (-scores.double()).clamp(min=0) + (-scores.double().abs()).exp().log1p()
    losses = deception_loss(scores, reduction="none")
    torch.testing.assert_close(losses.double(), exact, rtol=4e-7, atol=0)
    (slope,) = gradients(lambda s: deception_loss(s, reduction="none"), scores)
    torch.testing.assert_close(slope.double(), -(-scores.double()).sigmoid(), rtol=4e-7, atol=0)
    assert deception_loss(torch.tensor([torch.nan])).isnan()


def test_losses_can_be_differentiated_twice() -> None:
    student, teacher = (5 * features(3, 4, seed=seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradgradcheck(discriminator_loss, (student, teacher))
    assert torch.autograd.gradgradcheck(deception_loss, student)


def test_copies_that_train_side_by_side_have_their_own_gradients() -> None:
    scores = 5 * features(3, 4)
    side_by_side = torch.func.vmap(torch.func.grad(lambda s: deception_loss(s, reduction="sum")))(scores)
    alone = gradients(lambda s: deception_loss(s.flatten(), reduction="sum"), scores)[0]
    torch.testing.assert_close(side_by_side, alone)


def test_half_precision_scores_are_computed_in_float32() -> None:
    scores = torch.randn(3, 2).bfloat16()
    assert discriminator_loss(scores, scores).dtype == torch.float32
    assert_near(deception_loss(scores), deception_loss(scores.float()))


def test_wrong_arguments_are_named() -> None:
    scores = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="form must be one of non_saturating, hinge, got 'x'"):
        deception_loss(scores, form="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the same shape, got \(2, 1\) and \(2, 2\)"):
        discriminator_loss(scores, torch.zeros(2, 2))
