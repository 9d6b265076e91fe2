from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.metrics import CentralMomentDiscrepancy, central_moment_discrepancy
from tests.losses.cases import assert_near, few_examples


def rows(seed: int, count: int, features: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, features, generator=generator, dtype=torch.float64) ** (1 + seed % 3)


def in_numpy(a: Tensor, b: Tensor, moments: int, bounds: tuple[float, float]) -> float:
    x, y = a.numpy(), b.numpy()
    width = bounds[1] - bounds[0]
    total = float(np.sqrt(((x.mean(0) - y.mean(0)) ** 2).sum())) / width
    for k in range(2, moments + 1):
        difference = ((x - x.mean(0)) ** k).mean(0) - ((y - y.mean(0)) ** k).mean(0)
        total += float(np.sqrt((difference**2).sum())) / width**k
    return total


sizes = st.tuples(st.integers(0, 100), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4))
all_moments = st.integers(1, 7)
all_bounds = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 80.0), (0.2, 0.7)])


@few_examples
@given(sizes, all_moments, all_bounds)
def test_function_is_the_equation(size: tuple[int, int, int, int], moments: int, bounds: tuple[float, float]) -> None:
    seed, n, m, features = size
    a, b = rows(seed, n, features), rows(seed + 1, m, features)
    discrepancy = central_moment_discrepancy(a, b, moments=moments, bounds=bounds)
    assert discrepancy.item() == pytest.approx(in_numpy(a, b, moments, bounds), abs=1e-12)


@few_examples
@given(sizes, all_moments, all_bounds, st.integers(1, 7))
def test_metric_of_batches_is_the_function_of_all_rows(
    size: tuple[int, int, int, int], moments: int, bounds: tuple[float, float], batch: int
) -> None:
    seed, n, m, features = size
    a, b = rows(seed, n, features), rows(seed + 1, m, features)
    metric = CentralMomentDiscrepancy(moments, bounds)
    for start in range(0, max(n, m), batch):  # at the end, one side may be empty
        metric.update(a[start : start + batch], b[start : start + batch])
    assert_near(metric.compute(), central_moment_discrepancy(a, b, moments=moments, bounds=bounds), 1e-11)


def test_by_hand() -> None:
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.25], [0.25]])
    assert central_moment_discrepancy(a, b, moments=1).item() == pytest.approx(0.25)
    assert central_moment_discrepancy(a, b, moments=2).item() == pytest.approx(0.25 + 0.25)
    assert central_moment_discrepancy(a, b, moments=3).item() == pytest.approx(0.5)  # symmetric: no third moment
    assert central_moment_discrepancy(a, b, moments=5).item() == pytest.approx(0.5 + 1 / 16)
    assert central_moment_discrepancy(a, b, bounds=(-1, 1)).item() == pytest.approx(0.125 + 0.0625 + 1 / 256)


def test_norm_is_over_features() -> None:
    a, b = torch.zeros(3, 2), torch.tensor([[3.0, 4.0]])
    assert central_moment_discrepancy(a, b).item() == pytest.approx(5.0)


def test_the_order_of_rows_and_of_the_two_sides_does_not_matter() -> None:
    a, b = rows(0, 9, 3), rows(1, 5, 3)
    expected = central_moment_discrepancy(a, b)
    assert_near(central_moment_discrepancy(a.flip(0), b), expected, 1e-14)
    assert_near(central_moment_discrepancy(b, a), expected, 1e-14)


def test_equal_samples_are_at_zero_with_zero_gradient() -> None:
    a = rows(0, 6, 3).requires_grad_()
    discrepancy = central_moment_discrepancy(a, a.detach().clone())
    (in_a,) = torch.autograd.grad(discrepancy, a)
    assert discrepancy == 0
    assert in_a.eq(0).all()


def test_one_row_a_side_has_no_gradient_but_that_of_its_mean() -> None:
    a = torch.tensor([[0.5, 0.1]], requires_grad=True)
    (in_a,) = torch.autograd.grad(central_moment_discrepancy(a, torch.tensor([[0.2, 0.1]])), a)
    torch.testing.assert_close(in_a, torch.tensor([[1.0, 0.0]]))


def test_gradients_are_those_of_finite_differences() -> None:
    a, b = rows(0, 4, 2).requires_grad_(), rows(1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: central_moment_discrepancy(a, b, bounds=(-1, 1)), (a, b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    a, b = rows(0, 9, 3).to(dtype), rows(1, 9, 3).to(dtype)
    discrepancy = central_moment_discrepancy(a, b)
    assert discrepancy.dtype == torch.float32
    assert discrepancy == central_moment_discrepancy(a.float(), b.float())


@pytest.mark.parametrize("bounds", [(0.0, 80.0), (79.0, 80.0)])
def test_metric_stays_exact_where_features_are_far_from_zero(bounds: tuple[float, float]) -> None:
    a, b = 79 + rows(0, 50, 3), 79 + rows(1, 50, 3)
    metric = CentralMomentDiscrepancy(bounds=bounds)
    metric.update(a, b)
    assert_near(metric.compute(), central_moment_discrepancy(a, b, bounds=bounds), 1e-13)


def test_metric_sums_in_float64_what_comes_in_half_precision() -> None:
    a, b = rows(0, 3000, 2).half(), rows(1, 3000, 2).half()
    metric = CentralMomentDiscrepancy()
    for part_a, part_b in zip(torch.split(a, 100), torch.split(b, 100), strict=True):
        metric.update(part_a, part_b)
    assert_near(metric.compute(), central_moment_discrepancy(a.double(), b.double()), 1e-12)


def test_forward_gives_the_batch_and_keeps_the_whole() -> None:
    a, b = rows(0, 8, 2), rows(1, 8, 2)
    metric = CentralMomentDiscrepancy()
    for part_a, part_b in zip(torch.split(a, 3), torch.split(b, 3), strict=True):
        assert_near(metric(part_a, part_b), central_moment_discrepancy(part_a, part_b))
    assert_near(metric.compute(), central_moment_discrepancy(a, b))


def test_nothing_seen_is_nan_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert CentralMomentDiscrepancy().compute().isnan()


def test_one_side_unseen_is_nan() -> None:
    metric = CentralMomentDiscrepancy()
    metric.update(rows(0, 4, 2), torch.empty(0, 2))
    assert metric.compute().isnan()


def test_reset_forgets_the_number_of_features() -> None:
    metric = CentralMomentDiscrepancy()
    metric.update(rows(0, 4, 2), rows(1, 4, 2))
    metric.reset()
    metric.update(rows(0, 4, 3), rows(1, 4, 3))
    assert_near(metric.compute(), central_moment_discrepancy(rows(0, 4, 3), rows(1, 4, 3)))


@pytest.mark.parametrize("first", [1, 2])
def test_another_number_of_features_is_refused(first: int) -> None:
    metric = CentralMomentDiscrepancy()
    metric.update(rows(0, 4, first), rows(1, 4, first))
    with pytest.raises(ValueError, match=f"must have {first} features as in the batches before, got 3"):
        metric.update(rows(0, 4, 3), rows(1, 4, 3))


@pytest.mark.parametrize(("a", "b"), [((4, 2), (4, 3)), ((4,), (4,)), ((4, 2, 1), (4, 2, 1)), ((4, 2), (2,))])
def test_shapes_that_do_not_belong_together_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    message = r"shapes \(N, D\) and \(M, D\) with the same D, got \(4"
    with pytest.raises(ValueError, match=message):
        central_moment_discrepancy(torch.zeros(a), torch.zeros(b))
    with pytest.raises(ValueError, match=message):
        CentralMomentDiscrepancy().update(torch.zeros(a), torch.zeros(b))


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row each, got 0 and 2"):
        central_moment_discrepancy(torch.zeros(0, 3), torch.zeros(2, 3))


def test_options_that_make_no_sense_are_refused() -> None:
    a = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="moments must be at least 1, got 0"):
        central_moment_discrepancy(a, a, moments=0)
    with pytest.raises(ValueError, match=r"bounds must be a lower and a higher number, got \(1\.0, 1\.0\)"):
        central_moment_discrepancy(a, a, bounds=(1.0, 1.0))
    with pytest.raises(ValueError, match="moments must be at least 1, got -1"):
        CentralMomentDiscrepancy(moments=-1)
    with pytest.raises(ValueError, match=r"got \(1\.0, nan\)"):
        CentralMomentDiscrepancy(bounds=(1.0, math.nan))
