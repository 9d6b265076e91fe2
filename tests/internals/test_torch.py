"""What is used of torch beyond its public names is there and does what is relied on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from distill.internals import torch as internals
from tests.processes import run_in_processes

SAMPLES = list(range(6))


class Backwards(internals.OrderedLoader[Tensor]):
    """Reads the order from its end."""

    def ordered(self, sampler: Any) -> Any:
        return list(sampler)[::-1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_delivers_in_the_order_that_is_made_of_its_sampler(num_workers: int) -> None:
    samples: Any = SAMPLES
    settings: dict[str, Any] = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
    in_batches = Backwards(samples, 2, **settings)
    assert [batch.tolist() for batch in in_batches] == [[4, 5], [2, 3], [0, 1]]
    assert [batch.tolist() for batch in in_batches] == [[4, 5], [2, 3], [0, 1]]
    assert [int(sample) for sample in Backwards(samples, None, **settings)] == SAMPLES[::-1]
    assert [batch.tolist() for batch in internals.OrderedLoader(samples, 3)] == [[0, 1, 2], [3, 4, 5]]


def test_a_loader_has_workers_from_its_first_iteration_on_where_they_stay() -> None:
    samples: Any = SAMPLES
    alone, helped = DataLoader(samples), DataLoader(samples, num_workers=1, persistent_workers=True)
    assert not internals.has_workers(helped)
    for loader in (alone, helped):
        assert len(list(loader)) == len(SAMPLES)
    assert not internals.has_workers(alone)
    assert internals.has_workers(helped)


class Couple(internals.FollowedModule):
    """A layer and a companion that is no submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.__dict__["companion"] = nn.BatchNorm1d(2)

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        internals.apply_to(self.__dict__["companion"], change)


@pytest.mark.parametrize("around", [False, True])
def test_what_follows_a_module_is_told_of_moves_and_casts_also_within_another_module(around: bool) -> None:
    couple = Couple()
    moved = nn.Sequential(couple) if around else couple
    companion = couple.__dict__["companion"]
    assert moved.double() is moved
    assert {value.dtype for value in [*companion.parameters(), companion.running_mean]} == {torch.float64}
    assert companion.num_batches_tracked.dtype == torch.int64
    moved.to("meta")
    assert {value.device.type for value in [*companion.parameters(), *companion.buffers()]} == {"meta"}
    assert list(couple.state_dict()) == ["layer.weight", "layer.bias"]


class Buffers(internals.UnsentBuffers):
    """Two buffers, one of them each process's own."""

    shared: Tensor
    own: Tensor

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.register_buffer("shared", torch.tensor(float(rank)))
        self.register_buffer("own", torch.tensor(float(rank)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y

    def unsent_buffers(self) -> list[str]:
        return ["own"]


def _after_a_step(rank: int, count: int) -> tuple[float, float]:
    module = Buffers(rank)
    DistributedDataParallel(module)(torch.ones(1, 1)).sum().backward()
    return float(module.shared), float(module.own)


@pytest.mark.ddp
def test_ddp_sends_the_other_buffers_alone() -> None:
    assert run_in_processes(_after_a_step, 2) == [(0, 0), (0, 1)]


def test_buffers_are_kept_that_were_changed_or_replaced_or_not_there() -> None:
    norm = nn.BatchNorm1d(1)
    norm.register_buffer("absent", None)
    mean, count = norm.running_mean, norm.num_batches_tracked
    with internals.buffers_kept(norm), torch.no_grad():
        norm(torch.randn(4, 1) + 5)
        norm.running_var = torch.zeros(1)
        norm.register_buffer("absent", torch.zeros(1))
        assert norm.running_mean is not None
        assert norm.running_mean > 0
    assert norm.running_mean is mean
    assert norm.num_batches_tracked is count
    assert (float(mean), float(norm.running_var), int(count)) == (0, 1, 0)  # type: ignore[arg-type]
    assert norm.absent is None


def test_an_unknown_backend_is_refused_with_the_error_that_is_relied_on() -> None:
    with pytest.raises(internals.unknown_backend_error()):
        nn.Linear(1, 1).compile(backend="no_such_backend")


def test_tensors_that_are_not_finite_are_found_and_large_ones_are_finite() -> None:
    strange = [torch.tensor([1.0, torch.nan]), torch.tensor([-torch.inf, 1.0])]
    large = [
        torch.tensor([1e30, 1e30]),
        torch.full((1000,), 3000.0, dtype=torch.float16),
        torch.tensor([[-3.0], [4.0]]),
    ]
    assert internals.are_finite(large).tolist() == [True] * 3
    assert internals.are_finite([*strange, *large]).tolist() == [False, False, True, True, True]


def test_the_version_of_a_tensor_rises_with_each_change_in_place() -> None:
    values = torch.ones(3)
    before = internals.version(values)
    assert internals.version(values) == before
    values.view(1, 3)[0].relu_()
    assert internals.version(values) not in (before, None)
    with torch.inference_mode():
        assert internals.version(torch.ones(3)) is None
