from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
import torch
from torch import Tensor

from distill.losses import arfd, cka, consistency_loss, recalibrate
from distill.losses.arfd import Kernel, Measure
from tests.losses.cases import assert_near

kernels = pytest.mark.parametrize("kernel", get_args(Kernel))
measures = pytest.mark.parametrize("measure", get_args(Measure))


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cka_equation(student: Tensor, teacher: Tensor) -> Tensor:
    """Kornblith et al.: tr(KHLH) with the centring matrix written out, sample by sample."""
    values = []
    for of_student, of_teacher in zip(student.flatten(2), teacher.flatten(2), strict=True):
        center = torch.eye(len(of_student), dtype=of_student.dtype) - 1 / len(of_student)
        k, l = of_student @ of_student.T, of_teacher @ of_teacher.T  # noqa: E741

        def hsic(a: Tensor, b: Tensor, center: Tensor = center) -> Tensor:
            return torch.trace(a @ center @ b @ center)

        values.append(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())
    return torch.stack(values)


@pytest.mark.parametrize(
    ("kernel", "of_distance"),
    [
        ("laplace", lambda d: math.exp(-d * d / 1.5)),
        ("laplace_l1", lambda d: math.exp(-abs(d) / math.sqrt(1.5))),
        ("gaussian", lambda d: math.exp(-d * d / 3)),
        ("linear", lambda d: d),
        ("none", lambda d: d + 3),
    ],
)
def test_kernels_of_a_map_computed_by_hand(kernel: Kernel, of_distance: Callable[[float], float]) -> None:
    # the mean is 3, the distances are -2, 0, 1 and 1, the mean of their squares is 1.5
    features = torch.tensor([[[1.0, 3.0], [4.0, 4.0]]], dtype=torch.float64)
    expected = torch.tensor([of_distance(d) for d in (-2, 0, 1, 1)], dtype=torch.float64)
    assert_near(recalibrate(features, kernel=kernel).flatten(), expected)


@pytest.mark.parametrize("kernel", ["laplace", "laplace_l1", "gaussian"])
def test_recalibrated_features_know_no_scale_and_no_offset(kernel: Kernel) -> None:
    features = maps(2, 3, 4, 4)
    assert_near(recalibrate(1000 * features - 7, kernel=kernel), recalibrate(features, kernel=kernel), 1e-9)
    assert recalibrate(features, kernel=kernel).min() > 0
    assert recalibrate(features, kernel=kernel).max() <= 1


@kernels
def test_samples_do_not_know_of_each_other_and_constant_ones_are_finite(kernel: Kernel) -> None:
    features = torch.stack([torch.zeros(3, 4), torch.full((3, 4), 1e4), torch.rand(3, 4)]).requires_grad_()
    values = recalibrate(features, kernel=kernel)
    torch.testing.assert_close(values[2:], recalibrate(features[2:], kernel=kernel))
    (gradient,) = torch.autograd.grad(values.square().sum(), features)
    assert values.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("positions", [1, 3, 4096])
def test_cka_is_the_equation_whatever_the_length_of_a_strip(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arfd, "POSITIONS", positions)
    student, teacher = maps(3, 5, 2, 4).requires_grad_(), maps(3, 5, 7, seed=1).requires_grad_()
    assert_near(cka(student, teacher), cka_equation(student, teacher), 1e-12)
    actual, expected = (
        torch.autograd.grad(function(student, teacher).square().sum(), (student, teacher))
        for function in (partial(cka, teacher_gradient=True), cka_equation)
    )
    assert_near(actual[0], expected[0], 1e-10)
    assert_near(actual[1], expected[1], 1e-10)


def test_cka_is_1_for_identical_features_and_never_more() -> None:
    features = torch.rand(4, 16, 50)
    assert torch.equal(cka(features, features) <= 1, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(cka(features, features), torch.ones(4))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_cka_is_invariant_to_scale_orthogonal_transforms_and_a_common_offset(offset: float) -> None:
    student, teacher = maps(2, 6, 9), maps(2, 6, 9, seed=1)
    orthogonal, _ = torch.linalg.qr(maps(9, 9, seed=2))
    changed = -3 * student @ orthogonal + offset
    assert_near(cka(changed, teacher), cka(student, teacher), 1e-9)
    of_singles = cka((student @ orthogonal + offset).float(), teacher.float())
    torch.testing.assert_close(of_singles.double(), cka(student, teacher), rtol=1e-3, atol=1e-3)


def test_cka_of_orthogonal_directions_is_0_and_lies_between_0_and_1() -> None:
    one, other = torch.tensor([[1.0], [-1], [0], [0]]), torch.tensor([[0.0], [0], [1], [-1]])
    assert cka(one[None], other[None]).item() == pytest.approx(0, abs=1e-7)
    values = cka(torch.randn(50, 8, 3), torch.randn(50, 8, 4))
    assert values.min() >= 0
    assert values.max() < 1


def test_cka_as_printed_is_eq_18_and_near_1_for_unrelated_features_with_a_mean() -> None:
    student, teacher = maps(2, 5, 7) + 0.5, maps(2, 5, 7, seed=1) + 0.5
    ones = torch.ones(5, dtype=torch.float64)
    expected = []
    for of_student, of_teacher in zip(student, teacher, strict=True):
        s, t = of_student @ of_student.T, of_teacher @ of_teacher.T

        def hsic(a: Tensor, b: Tensor) -> Tensor:
            product = torch.trace(a @ b) + (ones @ a @ ones) * (ones @ b @ ones) / 25 - 2 / 25 * ones @ a @ b @ ones
            return 25 / 16 * product

        expected.append(hsic(s, t) / (hsic(s, s) * hsic(t, t)).sqrt())
    assert_near(cka(student, teacher, centering="printed"), torch.stack(expected), 1e-12)
    many, others = maps(1, 32, 400) + 0.5, maps(1, 32, 400, seed=1) + 0.5
    assert cka(many, others, centering="printed").item() > 0.98
    assert cka(many, others).item() < 0.95


def test_cka_keeps_nothing_but_its_inputs_and_small_matrices() -> None:
    saved: list[Tensor] = []
    student, teacher = torch.rand(1, 16, 40, 50).requires_grad_(), torch.rand(1, 16, 40, 50).requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cka(student, teacher)
    inputs = {student.data_ptr(), teacher.data_ptr()}
    beside = {tensor.data_ptr(): tensor.numel() for tensor in saved if tensor.data_ptr() not in inputs}
    assert sum(beside.values()) <= 16 * 16 * 10


@measures
def test_equal_maps_are_consistent_and_zero_maps_are_finite(measure: Measure) -> None:
    features = maps(3, 4, 5).requires_grad_()
    assert_near(consistency_loss(features, features.detach(), measure=measure), torch.zeros(3, dtype=torch.float64))
    for other in (torch.zeros_like(features), features.detach()):
        for first, second in ((features, other), (torch.zeros_like(features).requires_grad_(), other)):
            values = consistency_loss(first, second, measure=measure)
            (gradient,) = torch.autograd.grad(values.sum(), first)
            assert values.isfinite().all()
            assert gradient.isfinite().all()


def test_measures_beside_cka_computed_by_hand() -> None:
    student, teacher = torch.tensor([[[3.0, 4.0]], [[1.0, 2.0]]]), torch.tensor([[[4.0, 3.0]], [[3.0, 4.0]]])
    euclidean = consistency_loss(student, teacher, measure="euclidean")
    torch.testing.assert_close(euclidean, torch.tensor([1.0, 2.0]))  # sqrt((1 + 1) / 2), sqrt((4 + 4) / 2)
    cosine = consistency_loss(student, teacher, measure="cosine")
    torch.testing.assert_close(cosine, torch.tensor([1 - 24 / 25, 1 - 11 / math.sqrt(125)]))
    pearson = consistency_loss(student, teacher, measure="pearson")
    torch.testing.assert_close(pearson, torch.tensor([2.0, 0.0]), rtol=0, atol=1e-6)


def test_wrong_arguments_are_named() -> None:
    features = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="kernel must be one of laplace, laplace_l1, gaussian, linear, none, got 'x'"):
        recalibrate(features, kernel="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="measure must be one of cka, cka_printed, euclidean, cosine, pearson"):
        consistency_loss(features, features, measure="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="centering must be one of hsic, printed, got 'x'"):
        cka(features, features, centering="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the same number of samples and channels.*\(2, 3, 4\) and \(2, 5, 4\)"):
        cka(features, torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"the same shape, got \(2, 3, 4\) and \(2, 3, 5\)"):
        consistency_loss(features, torch.zeros(2, 3, 5), measure="cosine")
