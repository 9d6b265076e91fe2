"""Means over the counted positions of all processes, and over the batches of an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distill.batches import Batch, present, samples_in
from distill.distributed import mean
from distill.errors import UserError, UserTypeError
from distill.outputs import full_precision
from distill.tasks import Task

LossSums = dict[str, tuple[Tensor, int]]
"""For each loss by name, the sum over samples and the number of samples."""


LABEL_LOSSES = "loss", "hard", "aux"
"""The losses that count all samples; the terms of a method count those that its teacher sees."""


def add_batch(sums: LossSums, losses: Mapping[str, Tensor], batch: Batch, teacher_inputs: Sequence[str] = ()) -> None:
    """Adds the mean losses of a batch to the sums of an epoch, weighted by the number of samples that they count.

    Args:
        sums: Changed in place.
        losses: Scalars by name.
        batch: The batch.
        teacher_inputs: The modalities that a sample needs to count in the terms of a method.
    """
    samples, mask = samples_in(batch), present(batch, teacher_inputs)
    pairs = samples if mask is None else int(mask.sum())
    for name, value in losses.items():
        counted = samples if name in LABEL_LOSSES else pairs
        total, count = sums.get(name, (torch.zeros(()), 0))
        sums[name] = total + (counted * value.detach() if counted else 0), count + counted


def gathered_means(sums: Sequence[Mapping[str, tuple[Tensor | float, int]]]) -> dict[str, Tensor]:
    """The means of an epoch by name from the sums of all processes, without those that count no sample."""
    means = {}
    for name in dict.fromkeys(name for of_process in sums for name in of_process):
        parts = [of_process[name] for of_process in sums if name in of_process]
        if count := sum(number for _, number in parts):
            means[name] = torch.tensor(sum(float(total) for total, _ in parts) / count)
    return means


def counted_means(terms: Mapping[str, Tensor], batch: Batch, task: Task | None, method: str) -> dict[str, Tensor]:
    """The terms of a method's step by name, each a float32 mean over the counted positions; 0 without samples.

    Args:
        terms: As :func:`counted_mean` takes them.
        batch: The batch.
        task: The task that reads the target.
        method: The name of the method, for errors.

    Raises:
        ValueError: There is no term, or a term has another shape.
    """
    if not isinstance(terms, Mapping):
        raise UserTypeError(
            f"{method}.distillation_step must return a dictionary of terms by name, got {type(terms).__name__}"
        )
    if not terms:
        raise UserError(f"{method}.distillation_step returns no term to train on")
    means = {
        name: counted_mean(full_precision(term), batch, task, f"the term {name!r} of {method}")
        for name, term in terms.items()
    }
    if samples_in(batch):
        return means
    # a mean over no samples is NaN; the graph stays, as DDP waits for the gradients of all parameters
    return {name: value.where(value.isfinite(), 0) for name, value in means.items()}


def counted_mean(values: Tensor, batch: Batch, task: Task | None, what: str = "the loss") -> Tensor:
    """The mean of a term over the counted positions of all processes.

    Args:
        values: One value per position, ``(N,)`` or ``(N, *spatial)``; a scalar is returned unchanged.
        batch: The batch; its ``target`` says which positions count. Without a target all positions count.
        task: The task that reads the target; without a task all positions count.
        what: The name of the values, for the error.

    Raises:
        ValueError: The term has another shape.
    """
    if values.ndim == 0:
        return values
    if task is None or "target" not in batch:
        return mean(values, torch.ones_like(values))
    return mean(values, counts_of(values, batch["target"], task, what))


def counts_of(values: Tensor, target: Tensor, task: Task, what: str = "the loss") -> Tensor:
    """The weight of each value in the mean, in the shape of ``values``.

    Raises:
        ValueError: The shape of the values does not fit the target.
    """
    counts = task.counts(target).to(values.dtype)
    if counts.ndim == values.ndim + 1 > 2 and values.shape == counts[:, 0].shape:  # one value for all channels
        counts = counts.amax(dim=1)
    if counts.ndim > values.ndim:  # one value per sample, one label per pixel
        counts = counts.flatten(values.ndim).amax(dim=-1)
    if counts.shape != values.shape:
        raise UserError(
            f"{what} has the shape {tuple(values.shape)}, but it must be a scalar or hold one value per position, "
            f"{tuple(counts.shape)}"
        )
    return counts
