"""Means over the counted positions of all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.distributed import mean
from distill.errors import UserError
from distill.outputs import Batch
from distill.tasks import Task


def counted_mean(values: Tensor, batch: Batch, task: Task) -> Tensor:
    """The mean of a term over the counted positions of all processes.

    Args:
        values: One value per position, ``(N,)`` or ``(N, *spatial)``; a scalar is returned unchanged.
        batch: The batch; its ``target`` says which positions count. Without a target all positions count.
        task: The task that reads the target.

    Raises:
        ValueError: The term has another shape.
    """
    if values.ndim == 0:
        return values
    if "target" not in batch:
        return mean(values, torch.ones_like(values))
    return mean(values, counts_of(values, batch["target"], task))


def counts_of(values: Tensor, target: Tensor, task: Task) -> Tensor:
    """The weight of each value in the mean, in the shape of ``values``.

    Raises:
        ValueError: The shape of the values does not fit the target.
    """
    counts = task.counts(target).to(values.dtype)
    if counts.ndim > values.ndim:  # one value per sample, one label per pixel
        counts = counts.flatten(values.ndim).amax(dim=-1)
    if counts.shape != values.shape:
        raise UserError(
            f"a term has the shape {tuple(values.shape)}, but a term must be a scalar or hold one value per position, "
            f"{tuple(counts.shape)}"
        )
    return counts
