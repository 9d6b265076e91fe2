"""What every public loss guarantees, whatever its formula. A new loss is included by its name in ``losses.__all__``."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.losses.every import Call, Sides, calls, sides

CALLS = list(calls())
OF_BOTH = {"discriminator_loss", "rbf_log_mean"}
"""Functions without a teacher: of a discriminator's scores, which train it, and of any two sets of features."""

every_loss = pytest.mark.parametrize("call", CALLS, ids=str)


def one(value: float) -> Callable[[Tensor], Tensor]:
    def spoil(values: Tensor) -> Tensor:
        spoiled = values.clone()
        spoiled[1, 0, 1, 1] = value
        return spoiled

    return spoil


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "one inf": one(math.inf),
    "one -inf": one(-math.inf),
    "all inf": lambda values: torch.full_like(values, math.inf),
    "tiny": lambda values: 1e-20 * values,
    "tinier": lambda values: 1e-30 * values,
    "huge": lambda values: 1e20 * values,
    "zero": torch.zeros_like,
    "one sample of zeros": lambda values: values * (torch.arange(len(values)) != 1).view(-1, 1, 1, 1),
    "equal": lambda values: values[:1].expand_as(values),
    "two nearly equal": lambda values: torch.cat([values[:1], values[:1] + 1e-20 * values[1:2], values[2:]]),
    "constant": torch.ones_like,
    "negative": torch.neg,
}


def total(results: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([result.sum() for result in results]).sum()


@every_loss
def test_no_gradient_flows_to_the_teacher(call: Call) -> None:
    x = sides()
    x = x._replace(student=x.student.requires_grad_(), teacher=x.teacher.requires_grad_())
    results = call(x)
    if not any(result.requires_grad for result in results):  # a map of the teacher's alone
        return
    (slope,) = torch.autograd.grad(total(results), x.teacher, allow_unused=True)
    if call.name in OF_BOTH:
        assert slope is not None
    else:
        assert slope is None


@every_loss
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_nan_is_never_hidden(call: Call, side: str) -> None:
    x = sides()
    spoilt = call(x._replace(**{side: one(math.nan)(getattr(x, side))}))
    if uses(call, x, side):
        assert total(spoilt).isnan()


@every_loss
def test_without_samples_a_loss_is_0_with_an_empty_gradient(call: Call) -> None:
    x = Sides(*(values[:0] for values in sides()))
    student = x.student.clone().requires_grad_()
    results = call(x._replace(student=student))
    if total(results).requires_grad:
        (slope,) = torch.autograd.grad(total(results), student, allow_unused=True)
        assert slope is None or slope.shape == student.shape
    assert total(results) == 0


@every_loss
def test_where_the_loss_is_finite_the_gradient_is(call: Call) -> None:
    for name, spoil in SPOILT.items():
        x = sides()
        for spoilt in (x._replace(student=spoil(x.student)), x._replace(teacher=spoil(x.teacher))):
            student = spoilt.student.clone().requires_grad_()
            results = call(spoilt._replace(student=student))
            if not all(result.isfinite().all() for result in results) or not total(results).requires_grad:
                continue
            (slope,) = torch.autograd.grad(total(results), student)
            assert slope.isfinite().all(), name


def uses(call: Call, x: Sides, side: str) -> bool:
    """Whether the loss depends on the element that is spoilt."""
    before = total(call(x))
    return bool(before != total(call(x._replace(**{side: one(7.5)(getattr(x, side))}))))
