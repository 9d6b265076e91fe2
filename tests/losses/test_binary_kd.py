from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.losses import binary_kd_loss, kd_loss
from tests.losses.cases import assert_near, gradient


def logits(*shape: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student, teacher


def equation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 [p log(p/q) + (1-p) log((1-p)/(1-q))]`` of each label, in float64, from the probabilities."""
    p, q = (1 / (1 + (-z.double() / temperature).exp()) for z in (teacher, student))
    return temperature**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_value_and_gradient_are_those_of_the_equation(spatial: tuple[int, ...], temperature: float) -> None:
    student, teacher = logits(4, 3, *spatial)

    def actual(student: Tensor) -> Tensor:
        return binary_kd_loss(student, teacher, temperature=temperature, over_labels="none", reduction="none")

    assert_near(actual(student), equation(student, teacher, temperature), 1e-9)
    assert_near(gradient(actual, student), gradient(lambda s: equation(s, teacher, temperature), student), 1e-9)
    in_float32 = binary_kd_loss(
        student.float(), teacher.float(), temperature=temperature, over_labels="none", reduction="none"
    )
    torch.testing.assert_close(in_float32.double(), equation(student, teacher, temperature), rtol=1e-4, atol=1e-6)


def test_one_label_is_the_distillation_of_its_two_classes() -> None:
    student, teacher = logits(5, 1)
    both = [torch.cat([z, torch.zeros_like(z)], 1) for z in (student, teacher)]
    assert_near(
        binary_kd_loss(student, teacher, temperature=3.0, reduction="none"),
        kd_loss(both[0], both[1], temperature=3.0, reduction="none"),
    )


def test_a_gap_of_1000_has_its_true_loss_and_slope() -> None:
    student = torch.tensor([[-500.0, 500.0, 500.0]], requires_grad=True)
    loss = binary_kd_loss(student, torch.tensor([[500.0, -500.0, 500.0]]), over_labels="none", reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), student)
    # p = 1 against q = exp(-500): log(p / q) = 500
    assert loss.tolist() == [[500, 500, 0]]
    assert slope.tolist() == [[-1, 1, 0]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda values, known: values.sum() / 2),  # one of three samples has no known label
        ({"over_labels": "mean"}, lambda values, known: values.sum() / known.sum()),
        ({"over_labels": "none"}, lambda values, known: values.sum() / known.sum()),
        ({"reduction": "sum"}, lambda values, known: values.sum()),
        ({"reduction": "none"}, lambda values, known: values.sum(1)),
        ({"reduction": "none", "over_labels": "mean"}, lambda values, known: values.sum(1) / torch.tensor([1, 3, 1])),
        ({"reduction": "sum", "over_labels": "mean"}, lambda values, known: values[0].sum() + values[1].sum() / 3),
    ],
)
def test_labels_that_are_not_known_count_nowhere(options: dict[str, Any], expected: Any) -> None:
    student, teacher = logits(3, 3)
    known = torch.tensor([[False, True, False], [True, True, True], [False, False, False]])
    values = torch.where(known, equation(student, teacher, 2.0), 0)
    spoilt = torch.where(known, student, math.nan).requires_grad_()
    loss = binary_kd_loss(spoilt, teacher, temperature=2.0, known=known, **options)
    assert_near(loss, expected(values, known))
    (slope,) = torch.autograd.grad(loss.sum(), spoilt)
    assert slope[~known].eq(0).all()


def test_arguments_that_do_not_fit_are_one_sentence() -> None:
    student, teacher = logits(2, 3)
    with pytest.raises(ValueError, match=r"known must have the shape of the logits, \(2, 3\), got \(2,\)"):
        binary_kd_loss(student, teacher, known=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"student and teacher must have the same shape, got \(2, 3\) and \(2, 2\)"):
        binary_kd_loss(student, teacher[:, :2])
    with pytest.raises(ValueError, match="over_labels must be one of none, mean, sum, got 'all'"):
        binary_kd_loss(student, teacher, over_labels="all")  # type: ignore[arg-type]
