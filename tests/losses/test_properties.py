"""What the losses are by definition invariant to, and where they are zero, on random shapes and numbers.

A row of the table says which of it holds for a loss; what does not, the comment beside it explains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill import losses
from tests.losses.cases import assert_near

few_examples = settings(max_examples=12, derandomize=True, deadline=None, database=None)

Kind = Literal["logits", "maps", "vectors", "depth"]


class Sides(NamedTuple):
    """What a loss is given; all of it float64."""

    student: Tensor  # (N, C, *)
    teacher: Tensor  # (N, C, *)
    target: Tensor  # (N, *), classes
    weights: Tensor  # (N, C, *), above 0


class Row(NamedTuple):
    """What holds for a loss.

    ``shift`` names the dims over which a number that is added to the student's input, one for each index of the other
    dims, changes nothing; ``classes`` how its dim 1 may be permuted: ``"both"`` sides alike, or the ``"student"``'s
    alone as well; ``zero`` whether value and gradient are 0 where the student equals the teacher, ``flat`` to how much.
    """

    loss: Callable[..., Tensor]
    kind: Kind
    shift: tuple[int, ...] | None = None
    classes: Literal["both", "student"] | None = "both"
    lowest: float | None = 0.0
    zero: bool = True
    flat: float = 1e-10
    reductions: bool = True


def vid(x: Sides, **options: Any) -> Tensor:
    return losses.vid_loss(x.student, x.teacher, x.weights.transpose(0, 1).flatten(1).mean(1), **options)


def fsp(x: Sides, **options: Any) -> Tensor:
    matrices = (losses.fsp_matrix(maps, maps.square()) for maps in (x.student, x.teacher))
    return losses.fsp_loss(*matrices, **options)


def nce(x: Sides, **options: Any) -> Tensor:
    return losses.nce_loss(x.teacher.flatten(1)[:, 0], x.student.flatten(1), n_data=50, **options)


def semckd(x: Sides, **options: Any) -> Tensor:
    attention = x.weights.flatten(1)[:, :2, None].expand(-1, 2, 2)
    rows = [[x.student, x.student], [x.student, x.student]]
    return losses.semckd_loss(rows, [x.teacher, x.teacher], attention, **options)


def dpm(x: Sides, **options: Any) -> Tensor:
    depth = 4 * x.weights[:, :1]
    return losses.dpm_loss(x.student, depth, max_depth=20.0, **options)


def of_pair(loss: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, **options: loss(x.student, x.teacher, **fixed, **options)


def of_target(loss: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, **options: loss(x.student, x.teacher, x.target, **fixed, **options)


def of_weights(loss: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, **options: loss(x.student, x.teacher, x.target, x.weights, **fixed, **options)


def of_student(loss: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, **options: loss(x.student, **fixed, **options)


def parts(loss: Callable[..., tuple[Tensor, ...]], part: int, **fixed: Any) -> Callable[..., Tensor]:
    return lambda *args, **options: loss(*args, **fixed, **options)[part]


terms, weighted = losses.decoupled_kd_terms, losses.dwld_terms
relational = partial(Row, kind="vectors", reductions=False)
LOSSES: dict[str, Row] = {
    "kd": Row(of_pair(losses.kd_loss, temperature=4.0), "logits", shift=(1,)),
    "tckd": Row(of_target(parts(terms, 0)), "logits", shift=(1,), reductions=False),
    "nckd": Row(of_target(parts(terms, 1)), "logits", shift=(1,), reductions=False),
    "dkd": Row(of_target(losses.dkd_loss), "logits", shift=(1,)),
    "ncld": Row(of_weights(parts(weighted, 1, form="bregman")), "logits", shift=(1,), reductions=False),
    "dwld": Row(of_weights(losses.dwld_loss, form="bregman"), "logits", shift=(1,)),
    # with unequal weights the paper's sum is negative where the student has more of what weighs more, and has a slope
    # at equality
    "dwld, kl": Row(of_weights(losses.dwld_loss), "logits", shift=(1,), lowest=None, zero=False),
    "cwd": Row(of_pair(losses.cwd_loss), "maps", shift=(2, 3)),
    # what the discriminator says of either side is not compared with the other's
    "discriminator": Row(of_pair(losses.discriminator_loss), "vectors", zero=False),
    "discriminator, hinge": Row(of_pair(losses.discriminator_loss, form="hinge"), "vectors", zero=False),
    "deception": Row(of_student(losses.deception_loss), "vectors", zero=False),
    "deception, hinge": Row(of_student(losses.deception_loss, form="hinge"), "vectors", lowest=None, zero=False),
    # positives and negatives are not compared with each other, and the first is the positive
    "nce": Row(nce, "vectors", classes=None, zero=False),
    "hint": Row(of_pair(losses.hint_loss), "maps"),
    "semckd": Row(semckd, "maps", classes=None),  # attention is not a matter of classes
    "at": Row(of_pair(losses.at_loss), "maps", classes="student"),
    "nst": Row(of_pair(losses.nst_loss), "maps", classes="student"),
    "factor": Row(of_pair(losses.factor_loss), "maps"),
    # minus a log-likelihood: its lowest value is half the logarithm of the variance
    "vid": Row(vid, "maps", lowest=None, zero=False),
    "fsp": Row(fsp, "maps"),
    "rkd distance": relational(of_pair(losses.rkd_distance_loss), shift=(0,), classes="student"),
    "rkd angle": relational(of_pair(losses.rkd_angle_loss), shift=(0,), classes="student"),
    "sp": relational(of_pair(losses.sp_loss), classes="student"),
    # 1e-7 before the logarithm leaves a slope at equality, and takes as little off the lower bound
    "pkt": relational(of_pair(losses.pkt_loss), classes="student", lowest=-1e-6, flat=1e-4),
    "cc": relational(of_pair(losses.cc_loss), classes="student"),
    # different dimensions of equal embeddings correlate, so equality is not its minimum
    "sem": relational(of_pair(losses.sem_loss), shift=(0,), zero=False),
    # logarithms of means of numbers below 1; it falls for ever as samples move apart
    "dcm": relational(of_pair(losses.dcm_loss, sigma=1.0), lowest=None, zero=False),
    "dcm, as printed": relational(of_pair(losses.dcm_loss, sigma=9.0, normalize=False), lowest=None, zero=False),
    "consistency": Row(of_pair(losses.consistency_loss), "maps", shift=(1,), reductions=False),
    "consistency, euclidean": Row(of_pair(losses.consistency_loss, measure="euclidean"), "maps", reductions=False),
    "consistency, cosine": Row(of_pair(losses.consistency_loss, measure="cosine"), "maps", reductions=False),
    "consistency, pearson": Row(
        of_pair(losses.consistency_loss, measure="pearson"), "maps", shift=(1, 2, 3), reductions=False
    ),
    # not of two sides, and not a loss
    "recalibrate": Row(of_student(losses.recalibrate), "maps", shift=(1, 2, 3), zero=False, reductions=False),
    "silog": Row(of_pair(losses.silog_loss), "depth", classes=None),
    "ssim": Row(of_pair(losses.ssim_loss), "depth", classes=None),
    # bins of depth have an order; logits are not depths, so that there is no equality
    "dpm": Row(dpm, "maps", shift=(1,), classes=None, zero=False),
    "dpm, reverse": Row(partial(dpm, direction="student_teacher"), "maps", shift=(1,), classes=None, zero=False),
}


def sides(kind: Kind) -> st.SearchStrategy[Sides]:
    sizes: dict[Kind, list[tuple[int, ...]]] = {
        "logits": [(), (2,), (2, 3)],
        "maps": [(2, 3), (4, 1)],
        "vectors": [()],
        "depth": [(4, 5)],
    }
    return st.builds(
        random_sides,
        seed=st.integers(0, 10**6),
        samples=st.integers(2, 4),
        classes=st.just(1) if kind == "depth" else st.integers(2, 6),
        size=st.sampled_from(sizes[kind]),
        scale=st.sampled_from([0.1, 1.0, 10.0]),
        positive=st.just(kind == "depth"),
    )


def random_sides(seed: int, samples: int, classes: int, size: Sequence[int], scale: float, positive: bool) -> Sides:
    generator = torch.Generator().manual_seed(seed)
    student, teacher, weights = torch.randn(3, samples, classes, *size, generator=generator, dtype=torch.float64)
    if positive:
        student, teacher = student.exp(), teacher.exp()
    target = torch.randint(classes, (samples, *size), generator=generator)
    return Sides(scale * student, scale * teacher, target, weights.exp())


def permuted(x: Sides, dim: int, order: Tensor) -> Sides:
    """All of it in another order of the samples (dim 0) or of the classes (dim 1)."""
    floats = [tensor.index_select(dim, order) for tensor in (x.student, x.teacher, x.weights)]
    target = x.target[order] if dim == 0 else order.argsort()[x.target]
    return Sides(floats[0], floats[1], target, floats[2])


def holds(condition: Callable[[Row], bool]) -> pytest.MarkDecorator:
    """For the losses for which this holds."""
    return pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if condition(row)])


@holds(lambda row: row.shift is not None)
@few_examples
@given(data=st.data())
def test_a_shift_of_the_students_numbers_changes_nothing(name: str, data: st.DataObject) -> None:
    row = LOSSES[name]
    x = data.draw(sides(row.kind))
    assert row.shift is not None
    shift = x.weights.mean([dim for dim in row.shift if dim < x.weights.ndim], keepdim=True)
    assert_near(row.loss(x._replace(student=x.student + shift)), row.loss(x), 1e-8)


@holds(lambda row: True)
@few_examples
@given(data=st.data())
def test_the_order_of_the_samples_does_not_matter(name: str, data: st.DataObject) -> None:
    row = LOSSES[name]
    x = data.draw(sides(row.kind))
    order = torch.tensor(data.draw(st.permutations(range(len(x.student)))))
    values = row.loss(x)
    assert_near(row.loss(permuted(x, 0, order)), values if values.ndim == 0 else values[order], 1e-8)


@holds(lambda row: row.classes is not None)
@few_examples
@given(data=st.data())
def test_the_order_of_the_classes_does_not_matter(name: str, data: st.DataObject) -> None:
    row = LOSSES[name]
    x = data.draw(sides(row.kind))
    order = torch.tensor(data.draw(st.permutations(range(x.student.shape[1]))))
    values = row.loss(x)
    expected = values[:, order] if name == "recalibrate" else values
    assert_near(row.loss(permuted(x, 1, order)), expected, 1e-8)
    if row.classes == "student":
        assert_near(row.loss(x._replace(student=x.student[:, order])), expected, 1e-8)


@holds(lambda row: row.lowest is not None)
@few_examples
@given(data=st.data())
def test_it_is_never_negative(name: str, data: st.DataObject) -> None:
    row = LOSSES[name]
    x = data.draw(sides(row.kind))
    near = x._replace(student=x.teacher + 1e-3 * x.weights)
    assert row.lowest is not None
    for pair in (x, near):
        assert row.loss(pair).min() >= row.lowest - 1e-12


@holds(lambda row: row.zero)
@few_examples
@given(data=st.data())
def test_it_is_zero_with_zero_gradient_where_student_and_teacher_are_equal(name: str, data: st.DataObject) -> None:
    row = LOSSES[name]
    x = data.draw(sides(row.kind))
    student = x.teacher.clone().requires_grad_()
    value = row.loss(x._replace(student=student))
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert_near(value, torch.zeros_like(value), 1e-12)
    assert_near(slope, torch.zeros_like(slope), row.flat)


@holds(lambda row: row.reductions)
@few_examples
@given(data=st.data())
def test_mean_and_sum_are_those_of_the_values_of_none(name: str, data: st.DataObject) -> None:
    row = LOSSES[name]
    x = data.draw(sides(row.kind))
    values = row.loss(x, reduction="none")
    assert values.shape in {x.target.shape, x.target.shape[:1], x.student[:, 0].shape}
    assert_near(row.loss(x, reduction="sum"), values.sum(), 1e-10)
    assert_near(row.loss(x, reduction="mean"), values.mean(), 1e-10)
