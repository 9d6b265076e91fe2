from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from distill.metrics import NontargetJSD, TargetJSD, nontarget_jsd, target_jsd
from tests.losses.cases import (
    IGNORED,
    Case,
    Divergence,
    assert_near,
    by_equation,
    cases,
    few_examples,
    gradient,
    nontarget,
    positions,
    random_case,
    softmax,
)

jensenshannon = pytest.importorskip("scipy.spatial.distance").jensenshannon  # scipy has no types

MetricClass = type[TargetJSD] | type[NontargetJSD]

METRICS = pytest.mark.parametrize(
    ("metric_class", "function"), [(TargetJSD, target_jsd), (NontargetJSD, nontarget_jsd)]
)


def eq_5(student: Tensor, teacher: Tensor, target: int) -> Tensor:
    s, t = softmax(student)[target], softmax(teacher)[target]
    m = (s + t) / 2
    return (t * (t / m).log() + s * (s / m).log()) / 2


def eq_6(student: Tensor, teacher: Tensor, target: int) -> Tensor:
    s, t = softmax(nontarget(student, target)), softmax(nontarget(teacher, target))
    m = (s + t) / 2
    return ((t * (t / m).log() + s * (s / m).log()) / 2).sum()


@few_examples
@given(cases())
def test_target_jsd_is_eq_5(case: Case) -> None:
    assert_near(target_jsd(*case), by_equation(case, eq_5))
    actual = gradient(lambda s: target_jsd(s, case.teacher, case.target), case.student)
    assert_near(actual, gradient(lambda s: by_equation(case._replace(student=s), eq_5), case.student))


@few_examples
@given(cases())
def test_nontarget_jsd_is_eq_6(case: Case) -> None:
    assert_near(nontarget_jsd(*case), by_equation(case, eq_6))
    actual = gradient(lambda s: nontarget_jsd(s, case.teacher, case.target), case.student)
    assert_near(actual, gradient(lambda s: by_equation(case._replace(student=s), eq_6), case.student))


@few_examples
@given(cases(min_classes=3))
def test_nontarget_jsd_is_the_square_of_scipys_distance(case: Case) -> None:
    for divergence, (student, teacher, target) in zip(nontarget_jsd(*case).flatten(), positions(case), strict=True):
        if target != IGNORED:
            distance = jensenshannon(softmax(nontarget(student, target)), softmax(nontarget(teacher, target)))
            assert divergence.item() == pytest.approx(distance**2, abs=1e-10)


def test_target_jsd_lacks_the_other_entry_of_the_binary_distribution() -> None:
    student, teacher, target = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    whole = target_jsd(student, teacher, target) + target_jsd(student, teacher, 1 - target)
    p = 1 / (1 + math.exp(-1))
    assert whole.item() == pytest.approx(jensenshannon([0.5, 0.5], [p, 1 - p]) ** 2, abs=1e-7)


def test_bounds_are_reached_where_nothing_overlaps() -> None:
    student = torch.tensor([[1000.0, 0.0, -1000.0]])
    assert target_jsd(student, student.flip(1), torch.tensor([0])).item() == pytest.approx(math.log(2) / 2)
    assert nontarget_jsd(student, student.flip(1), torch.tensor([1])).item() == pytest.approx(math.log(2))


@few_examples
@given(cases())
def test_bounds_hold(case: Case) -> None:
    assert target_jsd(*case).min() + 1e-15 >= 0
    assert target_jsd(*case).max() <= math.log(2) / 2
    assert nontarget_jsd(*case).min() + 1e-15 >= 0
    assert nontarget_jsd(*case).max() <= math.log(2)


@pytest.mark.parametrize("divergence", [target_jsd, nontarget_jsd])
def test_student_and_teacher_may_be_exchanged(divergence: Divergence) -> None:
    student, teacher, target = random_case(classes=5)
    assert_near(divergence(student, teacher, target), divergence(teacher, student, target), 1e-15)


@pytest.mark.parametrize("divergence", [target_jsd, nontarget_jsd])
def test_equal_models_differ_by_exactly_zero(divergence: Divergence) -> None:
    student, _, target = random_case(samples=40, classes=7)
    assert divergence(student.float(), student.float(), target).eq(0).all()


def test_two_classes_have_no_nontarget_divergence() -> None:
    student, teacher, _ = random_case(samples=40, classes=2, scale=100)
    assert nontarget_jsd(student.float(), teacher.float(), torch.arange(40) % 2).eq(0).all()


@METRICS
def test_metric_of_batches_is_the_mean_of_what_counts(metric_class: MetricClass, function: Divergence) -> None:
    student, teacher, target = random_case(samples=11, classes=5, spatial=(3, 2))
    metric = metric_class()
    for batch in zip(*(torch.split(tensor, 4) for tensor in (student, teacher, target)), strict=True):
        assert metric(*batch).isfinite()
    mean = function(student, teacher, target)[target != IGNORED].mean()
    assert_near(metric.compute(), mean, 1e-14)


@METRICS
def test_metric_sums_in_float64(metric_class: MetricClass, function: Divergence) -> None:
    student, teacher, target = random_case(samples=2000, classes=5)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    metric = metric_class()
    metric.update(student, teacher, target)
    assert metric.compute().dtype == torch.float64
    exact = function(student, teacher, target).double()[target != IGNORED].mean()
    assert_near(metric.compute(), exact, 1e-14)


@METRICS
def test_ignore_index_is_the_metrics_own(metric_class: MetricClass, function: Divergence) -> None:
    student, teacher, _ = random_case(samples=3)
    metric = metric_class(ignore_index=-1)
    metric.update(student, teacher, torch.tensor([2, -1, 0]))
    mean = function(student[::2], teacher[::2], torch.tensor([2, 0])).mean()
    assert_near(metric.compute(), mean, 1e-14)


@METRICS
def test_nothing_that_counts_is_nan(metric_class: MetricClass, function: Divergence) -> None:
    metric = metric_class()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute().isnan()
    metric.update(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([IGNORED, IGNORED]))
    assert metric.compute().isnan()
