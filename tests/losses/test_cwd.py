from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.losses import cwd_loss
from tests.losses.cases import assert_near, gradient, kl, softmax


def maps(samples: int = 3, channels: int = 4, size: tuple[int, ...] = (2, 5)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, samples, channels, *size, generator=generator, dtype=torch.float64)
    return student, teacher


def equation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Shu et al., eqs. 4 and 5, channel by channel."""
    values = [
        [
            temperature**2
            * kl(softmax(of_teacher.flatten() / temperature), softmax(of_student.flatten() / temperature))
            for of_student, of_teacher in zip(*sample, strict=True)
        ]
        for sample in zip(student, teacher, strict=True)
    ]
    return torch.stack([torch.stack(channels).mean() for channels in values])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("size", [(2, 5), (7,), (1, 2, 2)])
def test_values_and_gradients_are_those_of_the_equations(temperature: float, size: tuple[int, ...]) -> None:
    student, teacher = maps(size=size)

    def actual(s: Tensor) -> Tensor:
        return cwd_loss(s, teacher, temperature=temperature, reduction="none")

    assert_near(actual(student), equation(student, teacher, temperature))
    assert_near(gradient(actual, student), gradient(lambda s: equation(s, teacher, temperature), student))


def test_the_mean_is_the_sum_over_channels_and_samples_divided_by_their_number() -> None:
    student, teacher = maps(samples=3)
    values = equation(student, teacher, 1.0)
    assert_near(cwd_loss(student, teacher), values.mean())
    assert_near(cwd_loss(student, teacher, reduction="sum"), values.sum())


def test_a_constant_added_to_a_channel_changes_nothing() -> None:
    student, teacher = maps()
    moved = student + torch.randn(3, 4, 1, 1, dtype=torch.float64)
    assert_near(cwd_loss(moved, teacher), cwd_loss(student, teacher))
    assert_near(cwd_loss(teacher + 7, teacher), torch.zeros((), dtype=torch.float64))


def test_no_gradient_flows_to_the_teacher() -> None:
    student, teacher = (x.requires_grad_() for x in maps())
    cwd_loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_finite_for_gaps_of_1000_and_for_half_precision() -> None:
    student = torch.zeros(1, 2, 4, requires_grad=True)
    value = cwd_loss(student, 1000 * torch.eye(4)[:2][None])
    value.backward()
    assert value.item() == pytest.approx(torch.log(torch.tensor(4.0)).item())
    assert student.grad is not None
    assert student.grad.isfinite().all()
    half = torch.randn(1, 2, 4).bfloat16()
    assert cwd_loss(half, half).dtype == torch.float32


@pytest.mark.parametrize(("student", "teacher"), [((2, 3, 4), (2, 3, 5)), ((2, 3), (2, 3)), ((2, 3, 4), (2, 4, 4))])
def test_maps_that_do_not_belong_together_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the same shape \(N, C, \*\) with positions after the channels, got"):
        cwd_loss(torch.zeros(student), torch.zeros(teacher))


def test_one_position_is_refused_since_its_softmax_is_always_1() -> None:
    with pytest.raises(ValueError, match=r"with positions after the channels, got \(2, 3, 1, 1\)"):
        cwd_loss(torch.zeros(2, 3, 1, 1), torch.zeros(2, 3, 1, 1))
