"""What a loss needs to know about the other processes: their samples, with gradient, and how many there are."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """The number of processes that train together, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(local: Tensor) -> Tensor:
    """Concatenates the tensors of all processes along dim 0, in the order of their ranks.

    Gradients flow back to the process that a row came from: a loss that every process computes from the gathered rows
    has, after DDP's averaging, the gradients of one process that holds the whole batch. The processes may hold
    different numbers of rows.

    Args:
        local: This process's rows, ``(N_rank, *)``; all but dim 0 equal everywhere.

    Returns:
        ``(sum of N_rank, *)``; ``local`` itself where there is only one process.
    """
    if world_size() == 1:
        return local
    counts = _row_counts(local)
    padding = local.new_zeros(max(counts) - len(local), *local.shape[1:])
    gathered: Tensor = _AllGather.apply(torch.cat([local, padding]))
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])


def own_rows(gathered: Tensor, local: Tensor) -> Tensor:
    """The rows of ``gathered`` that stem from this process: undoes :func:`gather`.

    Args:
        gathered: One row a sample of all processes, ``(sum of N_rank, *)``.
        local: What this process had given to :func:`gather`, ``(N_rank, *)``.

    Returns:
        ``(N_rank, *)``.
    """
    if world_size() == 1:
        return gathered
    start = sum(_row_counts(local)[: dist.get_rank()])
    return gathered[start : start + len(local)]


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over all processes, scaled so that DDP's averaging of gradients keeps it exact.

    ``world_size * sum(values * weights on this rank) / sum(weights on all ranks)``: its average over the ranks, and
    the average of its gradients, are those of one process that holds the whole batch, however unevenly the positions
    that count are spread.

    Args:
        values: One value a position, ``(*)``.
        weights: What each position counts, 0 or more, of the same shape; no gradient flows to them.

    Returns:
        A scalar; 0, with zero gradient, where nothing counts.
    """
    weights = weights.detach().to(values.dtype)
    total = weights.sum()
    if world_size() > 1:
        dist.all_reduce(total)
    # where(): a position that does not count may hold inf or NaN, and 0 * inf is NaN
    counted = torch.where(weights > 0, values * weights, torch.zeros_like(values))
    return world_size() * counted.sum() / total.clamp(min=torch.finfo(values.dtype).tiny)


def all_gather_objects(state: Any) -> list[Any]:
    """What each process has given, in the order of their ranks, so that a checkpoint can hold all of it."""
    states = [state] * world_size()
    if world_size() > 1:
        dist.all_gather_object(states, state)
    return states


def rank_part(states: list[Any], otherwise: Any) -> Any:
    """What this process had given to :func:`all_gather_objects`; ``otherwise`` where there were fewer processes."""
    rank = dist.get_rank() if world_size() > 1 else 0
    return states[rank] if rank < len(states) else otherwise


class SynchronizedBuffers(nn.Module):
    """Base of modules whose buffers are equal in all processes by what they do, so that DDP need not send them."""


class _AllGather(torch.autograd.Function):
    """Stacks the equally shaped tensors of all processes, ``(world_size, *)``; gradients go back to each origin."""

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
    own = torch.tensor([len(local)], device=local.device)
    counts = [torch.zeros_like(own) for _ in range(world_size())]
    dist.all_gather(counts, own)
    return [int(count) for count in counts]
