import pytest
import torch
from torch import Tensor

from distill.losses.parts import slices


@pytest.mark.parametrize(
    ("samples", "numel", "sizes"),
    [(5, 6, [2, 2, 1]), (5, 1, [1, 1, 1, 1, 1]), (5, 15, [5]), (5, 14, [4, 1]), (0, 6, [0])],
)
def test_parts_hold_as_many_samples_as_fit_and_at_least_one(
    samples: int, numel: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "PART_NUMEL", numel)
    seen: list[int] = []

    def double(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return 2 * rows

    rows = torch.arange(samples * 3.0).view(samples, 3)
    assert torch.equal(slices.by_parts(double, rows), 2 * rows)
    assert seen == sizes


def test_several_parts_are_computed_anew_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "PART_NUMEL", 6)
    seen: list[int] = []

    def exponential(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows.exp()

    rows = torch.randn(5, 3, requires_grad=True)
    value = slices.by_parts(exponential, rows)
    assert seen == [2, 2, 1]
    (gradient,) = torch.autograd.grad(value.sum(), rows)
    assert sorted(seen) == [1, 1, 2, 2, 2, 2]
    torch.testing.assert_close(gradient, rows.exp())
