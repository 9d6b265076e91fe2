"""Means over the positions that count, of all processes together."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.distributed import mean
from distill.outputs import Batch
from distill.tasks import Task


def counted_mean(values: Tensor, batch: Batch, task: Task) -> Tensor:
    """The mean of a term over the positions that count.

    Args:
        values: One value a position, ``(N,)`` or ``(N, *spatial)``; a scalar is its own mean.
        batch: Its ``target`` says which positions count; without one all do.
        task: Tells them.

    Raises:
        ValueError: The term has another shape.
    """
    if values.ndim == 0:
        return values
    if "target" not in batch:
        return mean(values, torch.ones_like(values))
    return mean(values, counts_of(values, batch["target"], task))


def counts_of(values: Tensor, target: Tensor, task: Task) -> Tensor:
    """How much each of these values counts in their mean, of the shape of ``values``.

    Raises:
        ValueError: The values belong to other positions than the target.
    """
    counts = task.counts(target).to(values.dtype)
    if counts.ndim > values.ndim:  # one value a sample, labels a pixel
        counts = counts.flatten(values.ndim).amax(dim=-1)
    if counts.shape != values.shape:
        raise ValueError(
            f"a term has the shape {tuple(values.shape)}, but terms are scalars or hold one value a position, "
            f"{tuple(counts.shape)}"
        )
    return counts
