from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.losses import nst_loss
from tests.losses.cases import assert_near, gradient
from tests.losses.features import features, gradients


def equation(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared MMD with the kernel (x'y)^2, pair of channels by pair of channels."""

    def mean_kernel(first: list[Tensor], second: list[Tensor]) -> Tensor:
        return torch.stack([torch.dot(x, y) ** 2 for x in first for y in second]).mean()

    values = []
    for sample in zip(student.flatten(2), teacher.flatten(2), strict=True):
        of_student, of_teacher = ([x / (x**2).sum().sqrt() for x in maps] for maps in sample)
        values.append(
            mean_kernel(of_student, of_student)
            + mean_kernel(of_teacher, of_teacher)
            - 2 * mean_kernel(of_student, of_teacher)
        )
    return torch.stack(values)


# few positions: their Gram matrix is the smaller one; many: that of the channels
sizes = pytest.mark.parametrize("size", [(2,), (3,), (2, 2), (3, 4), (5, 6)])


@sizes
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_values_and_gradients_are_those_of_the_equation(size: tuple[int, ...], offset: float) -> None:
    student, teacher = features(2, 3, *size) + offset, features(2, 5, *size, seed=1) + offset
    assert_near(nst_loss(student, teacher, reduction="none"), equation(student, teacher), 1e-12)
    assert_near(nst_loss(student, teacher), equation(student, teacher).mean(), 1e-12)
    assert_near(
        gradient(lambda s: nst_loss(s, teacher, reduction="none"), student),
        gradient(lambda s: equation(s, teacher), student),
    )


@sizes
def test_float32_keeps_its_digits_where_features_lie_far_from_0(size: tuple[int, ...]) -> None:
    student, teacher = (features(2, c, *size, seed=c) + 100 for c in (3, 5))
    exact = equation(student, teacher)  # about 1e-4, from sums that are near 1
    single = nst_loss(student.float(), teacher.float(), reduction="none")
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-10)


def test_computed_by_hand() -> None:
    student, teacher = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [3.0, 4.0]]])
    # 1 + (1 + 1 + 2 * 0.8^2) / 4 - 2 (0 + 0.6^2) / 2
    assert nst_loss(student, teacher).item() == pytest.approx(1 + 3.28 / 4 - 0.36)


@sizes
def test_order_and_scale_of_the_channels_do_not_matter(size: tuple[int, ...]) -> None:
    student, teacher = features(2, 4, *size), features(2, 4, *size, seed=1)
    changed = student[:, [2, 0, 3, 1]] * torch.tensor([2.0, 0.1, -3.0, 1.0]).double().view(4, *[1] * len(size))
    assert_near(nst_loss(changed, teacher), nst_loss(student, teacher))
    assert_near(nst_loss(changed, student), torch.zeros((), dtype=torch.float64))


def test_a_batch_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = features(5, 3, 4, 4), features(5, 2, 4, 4, seed=1)
    whole = nst_loss(student, teacher), *gradients(lambda s: nst_loss(s, teacher), student)
    monkeypatch.setattr("distill.losses.parts.recompute.CHUNK_NUMEL", 2 * 3 * 16)
    parts = nst_loss(student, teacher), *gradients(lambda s: nst_loss(s, teacher), student)
    for one, other in zip(whole, parts, strict=True):
        assert_near(one, other)


def test_the_larger_map_is_average_pooled() -> None:
    student, teacher = features(2, 3, 4, 4), features(2, 5, 2, 2, seed=1)
    pooled = student.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))
    assert_near(nst_loss(student, teacher), equation(pooled, teacher).mean())


def test_vectors_have_no_places() -> None:
    with pytest.raises(ValueError, match=r"must be maps \(N, C, \*\) with positions, got \(2, 3\)"):
        nst_loss(torch.zeros(2, 3), torch.zeros(2, 3))
