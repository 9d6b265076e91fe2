"""What every loss on features owes its user, proven over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.losses import (
    at_loss,
    cc_loss,
    dcm_loss,
    factor_loss,
    fsp_loss,
    fsp_matrix,
    hint_loss,
    nst_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    sem_loss,
    sp_loss,
    vid_loss,
)
from tests.losses.features import features, gradients

Loss = Callable[..., Tensor]


def vid(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    return vid_loss(student, teacher, torch.linspace(0.5, 5, teacher.shape[1]), **options)


def fsp(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    halves = student.chunk(2, 1), teacher.chunk(2, 1)
    return fsp_loss(fsp_matrix(*halves[0]), fsp_matrix(*halves[1]), **options)


def sem(student: Tensor, teacher: Tensor) -> Tensor:
    return sem_loss(student.flatten(1), teacher.flatten(1))


OF_SAMPLES: dict[str, Loss] = {
    "hint": hint_loss,
    "at": at_loss,
    "nst": nst_loss,
    "factor": factor_loss,
    "vid": vid,
    "fsp": fsp,
}
OF_RELATIONS: dict[str, Loss] = {
    "rkd_distance": rkd_distance_loss,
    "rkd_angle": rkd_angle_loss,
    "sp": sp_loss,
    "pkt": pkt_loss,
    "cc": cc_loss,
    "sem": sem,
    "dcm": partial(dcm_loss, sigma=1.0),
    "dcm_align": partial(dcm_loss, sigma=1.0, cross="align"),
}
LOSSES = OF_SAMPLES | OF_RELATIONS

losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
of_samples = pytest.mark.parametrize("loss", OF_SAMPLES.values(), ids=OF_SAMPLES)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return features(*(shape or (5, 4, 3, 3))), features(*(shape or (5, 4, 3, 3)), seed=1)


def assert_finite(loss: Loss, student: Tensor, teacher: Tensor, largest: float) -> None:
    assert loss(student, teacher).isfinite()
    (slope,) = gradients(lambda s: loss(s, teacher), student)
    assert slope.abs().max() < largest  # NaN is not


@losses
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    student, teacher = pair(4, 2, 2, 2)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("vid", "sem", "dcm", "dcm_align")])
def test_equal_features_have_no_loss_and_no_gradient(name: str) -> None:
    for dtype in (torch.float64, torch.float32):
        student = features(5, 4, 3, 3).to(dtype)
        assert LOSSES[name](student, student).item() == pytest.approx(0, abs=1e-7)
        (slope,) = gradients(lambda s, student=student: LOSSES[name](s, student), student)
        assert slope.abs().max() < 1e-6


@losses
def test_samples_of_zeros_are_finite_and_have_no_larger_gradient_than_others(loss: Loss) -> None:
    student, teacher = (x.float() for x in pair())
    student[1] = 0
    teacher[2] = 0
    assert_finite(loss, student, teacher, largest=100)
    assert_finite(loss, torch.zeros_like(student), teacher, largest=100)
    assert_finite(loss, student, torch.zeros_like(teacher), largest=100)
    student[:, 2] = 0  # a channel that is dead in all samples
    assert_finite(loss, student, teacher, largest=100)


@losses
def test_equal_samples_are_finite(loss: Loss) -> None:
    student, teacher = (x.float() for x in pair())
    student[3] = student[0]
    teacher[3] = teacher[1]
    assert_finite(loss, student, teacher, largest=100)
    assert_finite(loss, student[:1].expand_as(student).clone(), teacher, largest=100)


@losses
def test_a_batch_of_one_is_finite(loss: Loss) -> None:
    student, teacher = (x.float() for x in pair(1, 4, 3, 3))
    assert_finite(loss, student, teacher, largest=100)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "sp", "pkt", "cc"])
def test_one_sample_has_no_relations(name: str) -> None:
    student, teacher = pair(1, 6)
    assert LOSSES[name](student, teacher).item() == pytest.approx(0, abs=1e-12)


@losses
def test_features_that_are_1000_apart_are_finite(loss: Loss) -> None:
    student, teacher = (x.float() for x in pair())
    assert_finite(loss, 1000 * student, teacher, largest=1e12)
    assert_finite(loss, student, 1000 * teacher, largest=1e12)


@losses
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_autocast_rounds_nothing(loss: Loss, offset: float) -> None:
    student, teacher = (x + offset for x in pair())
    exact = loss(student, teacher)
    (expected,) = gradients(lambda s: loss(s, teacher), student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student.float(), teacher.float())
        leaf = student.float().requires_grad_()
        surrounded = loss(leaf, teacher.float())
    (slope,) = torch.autograd.grad(surrounded, leaf)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=2e-3, atol=1e-8)
    assert (slope - expected).norm() < 1e-2 * expected.norm()


@losses
def test_half_precision_is_computed_in_float32(loss: Loss) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        student, teacher = (x.to(dtype) for x in pair())
        assert loss(student, teacher).dtype == torch.float32
        torch.testing.assert_close(loss(student, teacher), loss(student.float(), teacher.float()))
        (slope,) = gradients(lambda s, teacher=teacher: loss(s, teacher), student)
        assert slope.dtype == dtype


@losses
def test_memory_layout_does_not_matter(loss: Loss) -> None:
    student, teacher = pair()
    expected = loss(student, teacher), *gradients(lambda s: loss(s, teacher), student)
    channels_last = [x.contiguous(memory_format=torch.channels_last) for x in (student, teacher)]
    strided = [torch.stack([x, x], -1)[..., 0] for x in (student, teacher)]
    for one, other in (channels_last, strided):
        actual = loss(one, other), *gradients(lambda s, other=other: loss(s, other), one)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_flows_to_the_teacher(name: str) -> None:
    student, teacher = (x.requires_grad_() for x in pair())
    LOSSES[name](student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


@of_samples
def test_reductions_are_over_samples_that_do_not_know_of_each_other(loss: Loss) -> None:
    student, teacher = pair()
    values = loss(student, teacher, reduction="none")
    assert values.shape == (5,)
    torch.testing.assert_close(loss(student, teacher), values.mean())
    torch.testing.assert_close(loss(student, teacher, reduction="sum"), values.sum())
    torch.testing.assert_close(loss(student[2:3], teacher[2:3], reduction="none"), values[2:3])
    with pytest.raises(ValueError, match="reduction must be one of none, mean, sum, got 'x'"):
        loss(student, teacher, reduction="x")


@pytest.mark.parametrize("loss", OF_RELATIONS.values(), ids=OF_RELATIONS)
def test_relations_do_not_depend_on_the_order_of_the_batch(loss: Loss) -> None:
    student, teacher = pair()
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


@losses
def test_different_numbers_of_samples_are_refused(loss: Loss) -> None:
    student, teacher = pair()
    with pytest.raises(ValueError, match=r"\(5, .*\) and \(3, "):
        loss(student, teacher[:3])


def test_vectors_serve_where_positions_are_not_compared() -> None:
    student, teacher = pair(5, 6)
    for name, loss in LOSSES.items():
        if name not in ("at", "nst", "fsp"):
            assert math.isfinite(loss(student, teacher).item())
