"""What is wrong with the teacher of a fit whose loss is not finite."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from distill.batches import Batch, complete_samples, samples_in
from distill.internals.lightning import attached
from distill.outputs import NetworkOutput
from distill.training.named_samples import named_samples, not_finite_rows


def no_fault(batch: Batch) -> None:
    """What is wrong with a teacher that there is not."""


@torch.no_grad()
def teacher_fault(module: Any, batch: Batch) -> str | None:
    """The first of the teacher's weights and outputs that is not finite, as a part of a sentence.

    The teacher runs once more: call this only if the loss is not finite. Logits of -inf mask classes and are no fault.

    Args:
        module: What is trained; it may have no teacher.
        batch: The batch of the step, whose inputs are finite.

    Returns:
        Such as ``the teacher's prediction is not finite in samples 3, 4 of the data set``; None if all is finite.
    """
    teacher: nn.Module | None = getattr(module, "teacher", None)
    if teacher is None:
        return None
    for name, values in [*teacher.named_parameters(), *teacher.named_buffers()]:
        if not values.isfinite().all():
            return f"the teacher's weight {name!r} is not finite, but all inputs and the student's weights are"
    if not hasattr(module, "run_teacher"):
        return None
    batch = complete_samples(batch, module.teacher_inputs)
    if not samples_in(batch):
        return None
    trainer = attached(module)
    precision = nullcontext() if trainer is None else trainer.precision_plugin.forward_context()
    with precision:  # where an overflow of half precision comes again
        output: NetworkOutput = module.run_teacher(batch)
    outputs = {"prediction": output.prediction.masked_fill(output.prediction == -torch.inf, 0)}
    outputs |= {f"layer {name!r}": feature for name, feature in output.features.items()}
    for name, values in outputs.items():
        rows = not_finite_rows(values)
        if len(rows):
            return (
                f"the teacher's {name} is not finite in {named_samples(rows, batch.get('index'))}, but its weights and "
                "inputs are"
            )
    return None
