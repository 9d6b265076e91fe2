from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from distill.losses import silog_loss, ssim_loss
from tests.losses.cases import assert_near, gradient


def pair(samples: int = 2, noise: float = 5.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Depth maps of a slope with noise, and others near them, ``(samples, 1, 20, 24)`` metres."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(70, 10, 20).view(-1, 1)
    teacher = slope + 5 * torch.randn(samples, 1, 20, 24, generator=generator)
    student = teacher + noise * torch.randn(teacher.shape, generator=generator)
    return student.clamp(1, 80).to(dtype), teacher.clamp(1, 80).to(dtype)


@pytest.mark.parametrize("variance_focus", [0.0, 0.5, 0.85, 1.0])
def test_silog_is_the_equation_on_the_pixels_with_a_target(variance_focus: float) -> None:
    student, target = pair()
    target[0, 0, ::2] = 0

    def equation(student: Tensor) -> Tensor:
        values = []
        for estimated, measured in zip(student, target, strict=True):
            g = (estimated[measured > 0] / measured[measured > 0]).log()
            values.append((g.square().mean() - variance_focus * g.mean() ** 2).sqrt())
        return torch.stack(values)

    def actual(student: Tensor) -> Tensor:
        return silog_loss(student, target, variance_focus=variance_focus, reduction="none")

    assert_near(actual(student), equation(student))
    assert_near(gradient(actual, student), gradient(equation, student))
    assert_near(silog_loss(student, target, variance_focus=variance_focus), equation(student).mean())


def test_a_wrong_scale_costs_its_logarithm_less_the_focus() -> None:
    _, target = pair()
    assert silog_loss(2 * target, target).item() == pytest.approx(math.log(2) * math.sqrt(0.15))
    assert silog_loss(2 * target, target, variance_focus=0.0).item() == pytest.approx(math.log(2))
    assert silog_loss(2 * target, target, variance_focus=1.0).item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("variance_focus", [0.0, 0.85, 1.0])
def test_silog_of_a_perfect_fit_is_0_with_a_finite_gradient(variance_focus: float) -> None:
    for student in (pair()[1], pair()[1].float()):
        student.requires_grad_()
        loss = silog_loss(student, student.detach(), variance_focus=variance_focus)
        (in_student,) = torch.autograd.grad(loss, student)
        assert loss == 0
        assert in_student.eq(0).all()


def test_silog_is_finite_where_the_student_is_at_0_or_below() -> None:
    student, target = pair(dtype=torch.float32)
    student[:, :, 0], student[:, :, 1], student[:, :, 2] = 0, -5, 1e-30
    student[:, :, 3], target[:, :, 3] = torch.nan, 0
    student.requires_grad_()
    loss = silog_loss(student, target)
    (in_student,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert in_student.isfinite().all()
    assert in_student[:, :, :4].eq(0).all()
    assert in_student[:, :, 4:].ne(0).all()


def test_images_without_a_target_are_0_and_do_not_count() -> None:
    student, target = pair(3)
    target[1] = 0
    losses = silog_loss(student, target, reduction="none")
    assert losses[1] == 0
    assert_near(silog_loss(student, target), silog_loss(student[::2], target[::2]))
    student.requires_grad_()
    nothing = silog_loss(student, torch.zeros_like(target))
    (in_student,) = torch.autograd.grad(nothing, student)
    assert nothing == 0
    assert in_student.eq(0).all()


@pytest.mark.parametrize("data_range", [1.0, 80.0])
def test_ssim_is_that_of_scikit_image_and_torchmetrics_away_from_borders(data_range: float) -> None:
    student, teacher = pair()
    actual = (1 - ssim_loss(student, teacher, data_range=data_range, reduction="none"))[:, 5:-5, 5:-5]
    for image, first, second in zip(actual, student[:, 0].numpy(), teacher[:, 0].numpy(), strict=True):
        _, full = structural_similarity(  # type: ignore[no-untyped-call]
            first, second, data_range=data_range, gaussian_weights=True, use_sample_covariance=False, full=True
        )
        assert_near(image, torch.from_numpy(full)[5:-5, 5:-5])
    _, full = structural_similarity_index_measure(student, teacher, data_range=data_range, return_full_image=True)
    assert isinstance(full, Tensor)
    assert_near(actual, full[:, 0, 5:-5, 5:-5])


def weighted_ssim(student: Tensor, teacher: Tensor, row: int, column: int, data_range: float = 80.0) -> float:
    """Wang's equation 13 at one pixel, with the Gaussian's weights over the pixels that have a response."""
    rows, columns = torch.arange(20.0).double().view(-1, 1) - row, torch.arange(24.0).double() - column
    weights = torch.exp(-(rows**2 + columns**2) / (2 * 1.5**2))
    weights = torch.where((rows.abs() <= 5) & (columns.abs() <= 5) & (teacher > 0), weights, 0)
    weights = weights / weights.sum()
    x, y = ((weights * values).sum() for values in (student, teacher))
    xx, yy = ((weights * (values - mean) ** 2).sum() for values, mean in ((student, x), (teacher, y)))
    xy = (weights * (student - x) * (teacher - y)).sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return ((2 * x * y + c1) * (2 * xy + c2) / ((x**2 + y**2 + c1) * (xx + yy + c2))).item()


def test_pixels_without_a_response_count_in_no_window() -> None:
    student, teacher = pair(1)
    teacher[0, 0, 6:9, 4:15] = 0
    losses = ssim_loss(student, teacher, reduction="none")[0]
    for row, column in ((0, 0), (19, 23), (5, 10), (9, 4), (12, 12)):
        expected = 1 - weighted_ssim(student[0, 0], teacher[0, 0], row, column)
        assert losses[row, column].item() == pytest.approx(expected, abs=1e-10)
    assert torch.equal(losses == 0, teacher[0, 0] == 0)
    assert_near(ssim_loss(student, teacher), losses[teacher[0, 0] > 0].mean())
    spoiled = torch.where(teacher > 0, student, torch.nan).requires_grad_()
    loss = ssim_loss(spoiled, teacher)
    (in_student,) = torch.autograd.grad(loss, spoiled)
    assert_near(loss, ssim_loss(student, teacher), 0)
    assert in_student[teacher == 0].eq(0).all()
    assert in_student.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_maps_differ_by_exactly_nothing(dtype: torch.dtype) -> None:
    student, teacher = pair(noise=0.0, dtype=dtype)
    teacher[:, :, :3, :3], student[:, :, :3, :3] = 0, 7
    teacher[:, :, 10:], student[:, :, 10:] = 42.1, 42.1  # flat
    student.requires_grad_()
    for data_range in (1.0, 80.0):
        losses = ssim_loss(student, teacher, data_range=data_range, reduction="none")
        (in_student,) = torch.autograd.grad(losses.sum(), student)
        assert losses.eq(0).all()
        assert in_student.eq(0).all()


def test_opposite_structure_costs_more_than_none() -> None:
    _, teacher = pair()
    mean = teacher.mean()
    opposite, flat = 2 * mean - teacher, torch.full_like(teacher, mean.item())
    losses = {
        name: ssim_loss(student, teacher, data_range=1.0, reduction="none")[:, 5:-5, 5:-5]
        for name, student in {"opposite": opposite, "flat": flat}.items()
    }
    assert losses["opposite"].min() > 1
    assert losses["opposite"].max() <= 2
    assert losses["flat"].max() <= 1


def test_ssim_has_the_gradient_of_finite_differences() -> None:
    student, teacher = (depth[:1, :, :7, :7].clone() for depth in pair())
    teacher[0, 0, 2, 3] = 0
    assert torch.autograd.gradcheck(
        lambda z: ssim_loss(z, teacher, window=5, reduction="none"), student.requires_grad_()
    )


@pytest.mark.parametrize("loss", [silog_loss, ssim_loss])
def test_what_all_depth_losses_guarantee(loss: Any) -> None:
    student, teacher = pair(dtype=torch.float32)
    halved = loss(student.half(), teacher)
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, loss(student.half().float(), teacher), rtol=0, atol=0)
    torch.testing.assert_close(loss(student, teacher), loss(student.double(), teacher).float(), rtol=1e-5, atol=1e-6)
    assert not loss(student, teacher.requires_grad_()).requires_grad
    for samples in (0, 1):
        empty = torch.zeros(samples, 1, 12, 12, requires_grad=True)
        value = loss(empty, empty.detach())
        (in_student,) = torch.autograd.grad(value, empty)
        assert value == 0
        assert in_student.eq(0).all()
    with pytest.raises(ValueError, match=r"must have the same shape \(N, 1, H, W\), got \(2, 20, 24\) and \(2, 1, 20"):
        loss(student[:, 0], teacher)
    with pytest.raises(ValueError, match="reduction must be one of none, mean, sum, got 'max'"):
        loss(student, teacher, reduction="max")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 10}, "window must be an odd number of pixels, got 10"),
        ({"data_range": 0.0}, "data_range must be positive, got 0.0"),
        ({"sigma": -1.0}, "sigma must be positive, got -1.0"),
    ],
)
def test_windows_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssim_loss(*pair(), **options)


def test_a_focus_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"variance_focus must lie in \[0, 1\], got 1.5"):
        silog_loss(*pair(), variance_focus=1.5)
