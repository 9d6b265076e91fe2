from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from distill.losses import rkd, rkd_angle_loss, rkd_distance_loss
from distill.losses.parts.recompute import in_chunks
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients, rotation

Loss = Callable[[Tensor, Tensor], Tensor]

losses = pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss])


def smooth_l1(x: Tensor) -> Tensor:
    return x.abs() - 0.5 if x.abs() > 1 else x**2 / 2


def distance_equation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pair by pair."""
    tables = []
    for rows in (student.flatten(1), teacher.flatten(1)):
        pairs = list(product(range(len(rows)), repeat=2))
        table = {(i, j): (rows[i] - rows[j]).norm() for i, j in pairs if not torch.equal(rows[i], rows[j])}
        mean = torch.stack(list(table.values())).mean()
        tables.append([table[pair] / mean if pair in table else rows.new_zeros(()) for pair in pairs])
    return torch.stack([smooth_l1(s - t) for s, t in zip(*tables, strict=True)]).mean()


def angle_equation(student: Tensor, teacher: Tensor) -> Tensor:
    """Triplet by triplet."""

    def e(rows: Tensor, i: int, j: int) -> Tensor:
        difference = rows[i] - rows[j]
        return difference if torch.equal(rows[i], rows[j]) else difference / difference.norm()

    of_student, of_teacher = student.flatten(1), teacher.flatten(1)
    cosines = [
        [e(rows, i, j) @ e(rows, k, j) for i, j, k in product(range(len(rows)), repeat=3)]
        for rows in (of_student, of_teacher)
    ]
    return torch.stack([smooth_l1(s - t) for s, t in zip(*cosines, strict=True)]).mean()


equations = pytest.mark.parametrize(
    ("loss", "equation"), [(rkd_distance_loss, distance_equation), (rkd_angle_loss, angle_equation)]
)


@equations
@pytest.mark.parametrize(("samples", "size"), [(5, (3,)), (6, (2,)), (4, (2, 3, 2))])  # 6 of 2 take several strips
def test_values_and_gradients_are_those_of_the_equations(
    loss: Loss, equation: Loss, samples: int, size: tuple[int, ...]
) -> None:
    student, teacher = features(samples, *size), features(samples, 7, seed=1)
    student[1] = student[0]  # two equal samples are apart by 0, and have no direction
    assert_near(loss(student, teacher), equation(student, teacher))
    (actual,), (expected,) = (gradients(lambda s, f=f: f(s, teacher), student) for f in (loss, equation))
    apart = [i for i in range(samples) if i > 1]
    assert_near(actual[apart], expected[apart])
    assert actual.isfinite().all()


def test_angles_do_not_depend_on_how_many_samples_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = features(6, 3), features(6, 4, seed=1)
    values = []
    for count in (1, 4, 6):
        monkeypatch.setattr(rkd, "in_chunks", lambda *args, count=count, **kw: in_chunks(*args, **kw | {"rows": count}))
        values.append((rkd_angle_loss(student, teacher), *gradients(lambda s: rkd_angle_loss(s, teacher), student)))
    for value, slope in values[1:]:
        assert_near(value, values[0][0])
        assert_near(slope, values[0][1])


def test_distances_by_hand() -> None:
    # distances 1, 1, 2 with mean 4/3 against 1, 1, 1: 3/4, 3/4, 3/2 against 1
    line = torch.tensor([[0.0], [1.0], [2.0]])
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    expected = 2 * (2 * 0.25**2 / 2 + 0.5**2 / 2) / 9
    assert rkd_distance_loss(line, triangle).item() == pytest.approx(expected, rel=1e-5)


def test_angles_by_hand() -> None:
    # cosines at the ends of a line are 1, in its middle -1; all those of the triangle are 1/2
    line = torch.tensor([[0.0], [1.0], [2.0]])
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    expected = 2 * (0.5**2 / 2 + 0.5**2 / 2 + (1.5 - 0.5)) / 27
    assert rkd_angle_loss(line, triangle).item() == pytest.approx(expected, rel=1e-5)


@losses
def test_scale_rotation_and_shift_do_not_matter(loss: Loss) -> None:
    student, teacher = features(5, 4), features(5, 4, seed=1)
    changed = -3 * student @ rotation(4) + 50
    assert_near(loss(changed, teacher), loss(student, teacher), 1e-9)
    assert_near(loss(changed, student), torch.zeros((), dtype=torch.float64), 1e-9)


@losses
def test_nearly_equal_samples_keep_their_digits_in_float32(loss: Loss) -> None:
    student, teacher = features(6, 5) + 100, features(6, 5, seed=1)
    student[1] = student[0] + 1e-2 * features(5, seed=3)
    student = student.float()
    exact = loss(student.double(), teacher)
    torch.testing.assert_close(loss(student, teacher.float()).double(), exact, rtol=1e-4, atol=1e-7)
