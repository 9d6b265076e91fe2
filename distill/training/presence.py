"""Samples that lack a modality of the teacher: the teacher does not see them, and no term of the method counts them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distill.batches import Batch, chosen_samples, complete_rows, samples_in
from distill.outputs import NetworkOutput, chosen_rows

RunTeacher = Callable[[Batch], NetworkOutput]


class Compared(NamedTuple):
    """What a method compares: the outputs of both networks for the samples of a batch."""

    teacher: NetworkOutput
    student: NetworkOutput
    batch: Batch


def on_complete_samples(run: RunTeacher, try_out: RunTeacher, batch: Batch, names: Sequence[str]) -> NetworkOutput:
    """The output of a teacher that runs on those samples alone that have all its modalities.

    The other samples have NaN, or 0 in integer values.

    Args:
        run: Runs the teacher on a batch.
        try_out: The same without an effect on anything; its output for the first sample tells the shapes where no
            sample has the modalities.
        batch: The batch. The places of missing modalities hold values of the usual shape, which do not count.
        names: The modalities of the teacher.
    """
    rows = complete_rows(batch, names)
    if rows is None:
        return run(batch)
    if len(rows):
        output = run(chosen_samples(batch, rows))
    else:
        output = chosen_rows(try_out(chosen_samples(batch, [0])), rows)
    count = samples_in(batch)

    def spread(values: Tensor) -> Tensor:
        unknown = torch.nan if values.is_floating_point() else 0
        return values.new_full((count, *values.shape[1:]), unknown).index_copy(0, rows, values)

    return NetworkOutput(spread(output.prediction), {name: spread(values) for name, values in output.features.items()})


def complete_pairs(teacher: NetworkOutput, student: NetworkOutput, batch: Batch, names: Sequence[str]) -> Compared:
    """The outputs and the batch without the samples that lack a modality of the teacher.

    Args:
        teacher: The output of :func:`on_complete_samples`.
        student: The student's output for the whole batch.
        batch: The whole batch.
        names: The modalities of the teacher.
    """
    rows = complete_rows(batch, names)
    if rows is None:
        return Compared(teacher, student, batch)
    return Compared(chosen_rows(teacher, rows), chosen_rows(student, rows), chosen_samples(batch, rows))
