"""Collectives for losses and checkpoints: gathers samples with their gradient, and averages over all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_held_out = ContextVar("held_out", default=False)


@contextmanager
def held_out() -> Iterator[None]:
    """Marks a batch that is not from the training set, such as one of the validation.

    Its ``index`` is no position in the training set. And processes evaluate different numbers of batches, so this
    module's collectives see this process alone.
    """
    token = _held_out.set(True)
    try:
        yield
    finally:
        _held_out.reset(token)


def is_held_out() -> bool:
    """Whether the batch is not from the training set; see :func:`held_out`."""
    return _held_out.get()


def world_size() -> int:
    """The number of processes that train together; 1 without a process group, and for a held-out batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not is_held_out() else 1


def gather(local: Tensor) -> Tensor:
    """Concatenates the tensors of all processes along dim 0, in the order of their ranks.

    Gradients flow back to the process that each row came from. So if every process computes a loss from the gathered
    rows, DDP's average of the gradients equals the gradients of one process that holds the whole batch. The processes
    may hold different numbers of rows.

    Args:
        local: This process's rows, ``(N_rank, *)``; all dims except dim 0 are equal in all processes.

    Returns:
        ``(sum of N_rank, *)``; ``local`` itself if there is only one process.
    """
    if world_size() == 1:
        return local
    counts = _row_counts(local)
    padding = local.new_zeros(max(counts) - len(local), *local.shape[1:])
    gathered: Tensor = _AllGather.apply(torch.cat([local, padding]))
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])


def own_rows(gathered: Tensor, local: Tensor) -> Tensor:
    """The rows of ``gathered`` that came from this process; the inverse of :func:`gather`.

    Args:
        gathered: One row per sample of all processes, ``(sum of N_rank, *)``.
        local: The rows that this process passed to :func:`gather`, ``(N_rank, *)``.

    Returns:
        ``(N_rank, *)``.
    """
    if world_size() == 1:
        return gathered
    start = sum(_row_counts(local)[: dist.get_rank()])
    return gathered[start : start + len(local)]


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over all processes, scaled so that DDP's averaging of gradients keeps it exact.

    ``world_size * sum(values * weights on this rank) / sum(weights on all ranks)``. The average of this over the ranks
    equals the value of one process that holds the whole batch, and so does the average of its gradients, even if the
    ranks hold different numbers of counted positions.

    Args:
        values: One value per position, ``(*)``.
        weights: The weight of each position, 0 or more, of the same shape; no gradient flows to them.

    Returns:
        A scalar; 0, with zero gradient, if all weights are 0.
    """
    weights = weights.detach().to(values.dtype)
    total = weights.sum()
    if world_size() > 1:
        dist.all_reduce(total)
    # where(): a position with weight 0 may hold inf or NaN, and 0 * inf is NaN
    counted = torch.where(weights > 0, values * weights, torch.zeros_like(values))
    return world_size() * counted.sum() / total.clamp(min=torch.finfo(values.dtype).tiny)


def all_gather_objects(state: Any) -> list[Any]:
    """The objects of all processes, in the order of their ranks; a checkpoint can then hold all of them."""
    states = [state] * world_size()
    if world_size() > 1:
        dist.all_gather_object(states, state)
    return states


def rank_part(states: list[Any], default: Any) -> Any:
    """The object that this rank passed to :func:`all_gather_objects`; ``default`` if there were fewer processes."""
    rank = dist.get_rank() if world_size() > 1 else 0
    return states[rank] if rank < len(states) else default


class SynchronizedBuffers(nn.Module):
    """Base of modules that keep their buffers equal in all processes, so that DDP does not have to send them."""


class _AllGather(torch.autograd.Function):
    """Stacks the tensors of all processes, ``(world_size, *)``; each gradient flows back to its process."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def _row_counts(local: Tensor) -> list[int]:
    count = torch.tensor([len(local)], device=local.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    return [int(count) for count in counts]
