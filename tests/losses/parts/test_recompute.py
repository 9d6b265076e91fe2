from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.losses.parts import recompute
from distill.losses.parts.recompute import in_chunks
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients


def weighted_sums(a: Tensor, b: Tensor, shared: Tensor) -> Tensor:
    return (a * b.exp() * shared).sum(1)


@pytest.mark.parametrize(
    ("samples", "numel", "sizes"),
    [(5, 6, [2, 2, 1]), (5, 1, [1, 1, 1, 1, 1]), (5, 15, [5]), (5, 14, [4, 1]), (0, 6, [0])],
)
def test_chunks_hold_as_many_samples_as_fit_and_at_least_one(
    samples: int, numel: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "CHUNK_NUMEL", numel)
    seen: list[int] = []

    def double(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return 2 * rows

    rows = torch.arange(samples * 3.0).view(samples, 3)
    assert torch.equal(in_chunks(double, rows), 2 * rows)
    assert seen == sizes


def test_several_chunks_are_computed_again_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "CHUNK_NUMEL", 6)
    seen: list[int] = []

    def exponential(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows.exp()

    rows = torch.randn(5, 3, requires_grad=True)
    value = in_chunks(exponential, rows)
    assert seen == [2, 2, 1]
    (gradient,) = torch.autograd.grad(value.sum(), rows)
    assert sorted(seen) == [1, 1, 2, 2, 2, 2]
    torch.testing.assert_close(gradient, rows.exp())


@pytest.mark.parametrize("rows", [1, 2, 25])
def test_a_function_of_rows_has_the_same_values_and_gradients_in_chunks(rows: int) -> None:
    a, b, shared = features(5, 4), features(5, 4, seed=1), features(4, seed=2)

    def chunked(a: Tensor, b: Tensor, shared: Tensor) -> Tensor:
        return in_chunks(weighted_sums, a, b, shared=(shared,), rows=rows)

    assert_near(chunked(a, b, shared), weighted_sums(a, b, shared))
    actual, expected = (gradients(f, a, b, shared) for f in (chunked, weighted_sums))
    for one, other in zip(actual, expected, strict=True):
        assert_near(one, other)
    (of_second,) = gradients(lambda b: chunked(a, b, shared), b)  # where only some of them need a gradient
    assert_near(of_second, expected[1])


def test_chunks_can_be_differentiated_twice() -> None:
    points = [features(*shape, seed=seed).requires_grad_() for seed, shape in enumerate([(3, 2), (3, 2), (2,)])]

    def chunked(a: Tensor, b: Tensor, shared: Tensor) -> Tensor:
        return in_chunks(weighted_sums, a, b, shared=(shared,), rows=2)

    assert torch.autograd.gradgradcheck(chunked, points)


def test_chunks_are_no_larger_than_asked_for() -> None:
    seen: list[int] = []

    def function(few: Tensor) -> Tensor:
        seen.append(few.numel())
        return few.sum(1)

    in_chunks(function, torch.zeros(5, 4), rows=2)
    assert seen == [8, 8, 4]


def test_the_backward_pass_computes_under_the_autocast_of_the_forward_pass() -> None:
    seen: list[torch.dtype] = []

    def products(rows: Tensor) -> Tensor:
        table = rows @ rows.mT
        seen.append(table.dtype)
        return table.sum(1)

    rows = torch.randn(4, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = in_chunks(products, rows, rows=2)
    half.float().sum().backward()
    full = in_chunks(products, rows, rows=2)
    with torch.autocast("cpu", torch.bfloat16):
        full.sum().backward()
    assert seen == [torch.bfloat16] * 4 + [torch.float32] * 4
