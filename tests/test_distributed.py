from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.distributed import gather, mean, own_rows, world_size
from tests.processes import run_in_processes

SHARDS = {2: [[4, 2], [6, 0]], 3: [[1, 3, 2], [0, 5, 1]]}
"""Rows of each process, for so many processes; the processes hold the six rows of ``whole`` between them."""


def whole() -> tuple[Tensor, Tensor]:
    """Six rows, and what each counts; the first three count nothing, so whole processes may."""
    rows = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return rows, torch.tensor([0.0, 0.0, 0.0, 1.0, 0.5, 1.0], dtype=torch.float64)


def relations(rows: Tensor) -> Tensor:
    """A loss in which every row meets every other."""
    flat = rows.flatten(1)
    return (flat @ flat.T).pow(3).tanh().sum() + (flat[0] * flat[-1]).sum()


def mean_of_squares(rows: Tensor, weights: Tensor) -> Tensor:
    return mean(rows.flatten(1).square().sum(1), weights)


def of_one_process() -> dict[str, Tensor]:
    rows, weights = whole()
    rows.requires_grad_()
    loss, average = relations(gather(rows)), mean_of_squares(rows, weights)
    (of_loss,), (of_average,) = torch.autograd.grad(loss, rows), torch.autograd.grad(average, rows)
    return {
        "rows": rows.detach(),
        "loss": loss.detach(),
        "loss_gradient": of_loss,
        "mean": average.detach(),
        "mean_gradient": of_average,
    }


def of_shard(rank: int, size: int, shards: list[int]) -> dict[str, Tensor]:
    rows, weights = (torch.split(tensor, shards)[rank] for tensor in whole())
    rows = rows.clone().requires_grad_()
    gathered = gather(rows)
    loss, average = relations(gathered), mean_of_squares(rows, weights)
    (of_loss,) = torch.autograd.grad(loss, rows, retain_graph=True)
    (of_average,) = torch.autograd.grad(average, rows)
    return {
        "rows": gathered.detach(),
        "own": own_rows(gathered, rows).detach(),
        "labels": gather(torch.full((shards[rank],), rank)),
        "loss": loss.detach(),
        "loss_gradient": of_loss,
        "mean": average.detach(),
        "mean_gradient": of_average,
        "nothing": mean(rows.detach().flatten(), torch.zeros(rows.numel())),
        "size": torch.tensor(world_size()),
    }


def of_all_shards(rank: int, size: int) -> list[dict[str, Tensor]]:
    return [of_shard(rank, size, shards) for shards in SHARDS[size]]


@pytest.mark.ddp
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_with_uneven_rows_are_to_a_loss_as_one_with_all_rows(processes: int) -> None:
    expected = of_one_process()
    results = run_in_processes(of_all_shards, processes)
    for shards, found in zip(SHARDS[processes], zip(*results, strict=True), strict=True):
        expected_labels = [rank for rank, count in enumerate(shards) for _ in range(count)]
        for rank, of_rank in enumerate(found):
            assert of_rank["size"] == processes
            assert torch.equal(of_rank["rows"], expected["rows"])
            assert torch.equal(of_rank["own"], torch.split(expected["rows"], shards)[rank])
            assert of_rank["labels"].tolist() == expected_labels
            assert of_rank["nothing"] == 0
            torch.testing.assert_close(of_rank["loss"], expected["loss"])
        # averaging is what DDP does to the gradients
        torch.testing.assert_close(sum(of_rank["mean"] for of_rank in found) / processes, expected["mean"])
        for name in ("loss_gradient", "mean_gradient"):
            gradients = torch.cat([of_rank[name] for of_rank in found]) / processes
            torch.testing.assert_close(gradients, expected[name], msg=f"{name} of {shards}")


def test_one_process_gathers_its_own_rows_and_copies_none() -> None:
    rows = torch.randn(3, 2)
    assert world_size() == 1
    assert gather(rows) is rows
    assert own_rows(rows, rows) is rows


def test_mean_weighs_positions() -> None:
    values, weights = torch.tensor([[1.0, 2.0], [4.0, 8.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert mean(values, weights) == (1 + 2 + 4) / 2


def test_mean_where_nothing_counts_is_0_with_zero_gradient() -> None:
    values = torch.tensor([3.0, -torch.inf], requires_grad=True)
    average = mean(values, torch.zeros(2))
    average.backward()
    assert average == 0
    assert values.grad is not None
    assert values.grad.eq(0).all()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_does_not_count_may_hold_anything(bad: float) -> None:
    values = torch.tensor([1.0, bad, 5.0], requires_grad=True)
    average = mean(values, torch.tensor([1.0, 0.0, 3.0]))
    average.backward()
    assert average == 4
    assert values.grad is not None
    assert values.grad.tolist() == [0.25, 0.0, 0.75]


def test_what_counts_is_not_hidden() -> None:
    assert mean(torch.tensor([1.0, torch.nan]), torch.ones(2)).isnan()


def test_no_gradient_flows_to_the_weights() -> None:
    values, weights = torch.randn(4, requires_grad=True), torch.rand(4, requires_grad=True)
    of_values, of_weights = torch.autograd.grad(mean(values, weights), [values, weights], allow_unused=True)
    assert of_values is not None
    assert of_weights is None


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_weights_of_any_type_leave_the_values_their_precision(dtype: torch.dtype) -> None:
    values = torch.tensor([1e-12, 1.0, 7.0], dtype=torch.float64)
    average = mean(values, torch.tensor([1, 1, 0]).to(dtype))
    assert average.dtype == torch.float64
    assert average.item() == pytest.approx(0.5 + 5e-13, abs=1e-16)
    assert mean(values, torch.zeros(3, dtype=dtype)) == 0
