"""Every loss and metric on odd inputs: one sentence, a number, or NaN from NaN; no gradient to the teacher."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill.errors import UserError
from distill.metrics import (
    CentralMomentDiscrepancy,
    DepthScores,
    NontargetJSD,
    SegmentationScores,
    TargetJSD,
    central_moment_discrepancy,
    nontarget_jsd,
    target_jsd,
)
from tests.losses.every import Call, Sides, calls
from tests.losses.test_every_loss import OF_BOTH

pytestmark = pytest.mark.slow

CASES = 400
"""Random inputs for each loss with each of its options, and for each metric."""

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64]
SPOILT = ["no", "no", "nan", "inf", "-inf", "tiny", "huge", "zero", "equal"]
LAYOUTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x,
    lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: torch.stack([x, x], -1)[..., 0],
    lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    lambda x: x[:, :, :, :1].expand_as(x),
]
NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Metric = Callable[[Sides], Tensor]


def scores(metric: SegmentationScores | DepthScores, prediction: Tensor, target: Tensor) -> Tensor:
    metric.update(prediction, target)
    return torch.stack(list(metric.compute().values())[:5]).sum()


def updated(metric: CentralMomentDiscrepancy | TargetJSD | NontargetJSD, *inputs: Tensor) -> Tensor:
    metric.update(*inputs)
    value: Tensor = metric.compute()
    return value


METRICS: dict[str, Metric] = {
    "central_moment_discrepancy": lambda x: central_moment_discrepancy(x.student.flatten(1), x.teacher.flatten(1)),
    "target_jsd": lambda x: target_jsd(*x),
    "nontarget_jsd": lambda x: nontarget_jsd(*x),
    "CentralMomentDiscrepancy": lambda x: updated(
        CentralMomentDiscrepancy(), x.student.flatten(1), x.teacher.flatten(1)
    ),
    "TargetJSD": lambda x: updated(TargetJSD(), *x),
    "NontargetJSD": lambda x: updated(NontargetJSD(), *x),
    "SegmentationScores": lambda x: scores(SegmentationScores(max(2, x.student.shape[1])), x.student, x.target),
    "DepthScores": lambda x: scores(DepthScores(), x.student[:, :1], torch.full_like(x.student[:, :1], 2)),
}


def drawn(rng: random.Random) -> tuple[Sides, str, str]:
    """Random inputs, the side that is spoilt, and how."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    shape = rng.choice([0, 1, 2, 3, 4]), rng.choice([1, 2, 3, 5]), rng.choice([1, 2, 3]), rng.choice([1, 3])
    student, teacher = torch.randn(2, *shape, generator=generator).exp() * rng.choice([1, 4])
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    side, how = rng.choice(["student", "teacher"]), rng.choice(SPOILT)
    dtype = rng.choice(DTYPES)
    student, teacher = (rng.choice(LAYOUTS)(values).to(dtype) for values in (student, teacher))
    x = Sides(student, teacher, target)
    return x._replace(**{side: spoilt(getattr(x, side), how, generator)}), side, how


def spoilt(values: Tensor, how: str, generator: torch.Generator) -> Tensor:
    if how in NUMBERS:
        if not values.is_floating_point() or not values.numel():
            return values
        values = values.clone()
        place = tuple(int(torch.randint(size, (), generator=generator)) for size in values.shape)
        values[place] = NUMBERS[how]
        return values
    if how == "equal":
        return values[:1].expand_as(values)
    return values * {"no": 1, "tiny": 1e-20, "huge": 1e20, "zero": 0}[how] if values.is_floating_point() else values


def check(function: Callable[[Sides], tuple[Tensor, ...]], x: Sides, side: str, how: str, *, of_both: bool) -> None:
    student, teacher = x.student.clone(), x.teacher.clone()
    if student.is_floating_point():
        student.requires_grad_()
        teacher.requires_grad_()
    try:
        results = function(Sides(student, teacher, x.target))
    except UserError:
        return
    value = torch.stack([result.sum() for result in results]).sum()
    given = getattr(x, side)
    finite = x.student.isfinite().all() and x.teacher.isfinite().all()
    if finite and how not in ("huge", "tiny"):
        assert not value.isnan() or not x.target.numel(), "NaN from finite numbers"
    if given.isnan().any() and not value.isnan():
        place = given.isnan()
        changed = [
            function(x._replace(**{side: torch.where(place, number, given)}))[0].detach() for number in (0.3, 2.0)
        ]
        assert torch.equal(changed[0], changed[1]), "NaN is hidden"
    if not student.requires_grad or not value.requires_grad:
        return
    slope, of_teacher = torch.autograd.grad(value, (student, teacher), allow_unused=True)
    assert of_both or of_teacher is None, "the teacher has a gradient"
    # numbers of half precision cannot hold all gradients
    if slope is not None and value.isfinite() and student.dtype in (torch.float32, torch.float64):
        assert slope.isfinite().all(), "a finite loss has a gradient that is not"


@pytest.mark.parametrize("call", list(calls()), ids=str)
def test_losses_on_odd_inputs(call: Call) -> None:
    rng = random.Random(str(call))
    for number in range(CASES):
        x, side, how = drawn(rng)
        try:
            check(call.__call__, x, side, how, of_both=call.name in OF_BOTH)
        except Exception as error:
            raise AssertionError(f"case {number}: {describe(x, side, how)}") from error


@pytest.mark.parametrize("name", METRICS)
def test_metrics_on_odd_inputs(name: str) -> None:
    rng = random.Random(name)
    for number in range(CASES):
        x, side, how = drawn(rng)
        try:
            check(lambda sides: (METRICS[name](sides),), x, side, how, of_both=True)
        except Exception as error:
            raise AssertionError(f"case {number}: {describe(x, side, how)}") from error


def describe(x: Sides, side: str, how: str) -> str:
    return f"{tuple(x.student.shape)} of {x.student.dtype}, {side} spoilt by {how}"
