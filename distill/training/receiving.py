"""Brings what a loader gives into the form of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from distill.batches import Batch, check_named, chosen_samples, complete_rows, modalities, samples_in
from distill.internals.torch import buffers_copied
from distill.outputs import NetworkOutput, chosen_rows


class StandIn:
    """Runs a network on a batch without samples, which most networks cannot take, and under DDP all have to run.

    The network sees two copies of an earlier sample; none of its outputs is used, and its buffers stay as they were.
    """

    def __init__(self) -> None:
        self._sample: Batch | None = None

    def note(self, batch: Batch, left: Batch) -> None:
        """Keeps the first sample of a batch if no sample is left of it."""
        if samples_in(batch) and not samples_in(left):
            two = chosen_samples(batch, [0, 0])  # batch normalization needs two
            self._sample = apply_to_collection(two, Tensor, _finite)  # a gradient of 0 times NaN is NaN

    def output(
        self, run: Callable[..., NetworkOutput], network: nn.Module, batch: Batch, names: Sequence[str]
    ) -> NetworkOutput:
        """The output of a network for the named modalities of a batch, which may have no sample."""
        if self._sample is None or samples_in(batch):
            return run(*modalities(batch, names))
        with buffers_copied(network):
            output = run(*modalities(self._sample, names))
        return chosen_rows(output, torch.zeros(0, dtype=torch.int64, device=output.prediction.device))


def received(batch: Any, moved: Any, inputs: Sequence[str]) -> tuple[Any, Batch]:
    """A batch before and after its transfer, without the samples that lack a modality of the trained network.

    Args:
        batch: The batch on the CPU; a hook of the data module may have given ``moved`` another form.
        moved: The batch on the device.
        inputs: The modalities of the network.

    Raises:
        TypeError: ``moved`` is no dictionary.
        ValueError: A mask of presence has another type or shape.
    """
    moved = check_named(moved)
    same_samples = isinstance(batch, dict) and batch.keys() == moved.keys()
    rows = complete_rows(batch if same_samples else moved, inputs)  # reading a mask on a GPU would wait for it
    if rows is None:
        return batch, moved
    return chosen_samples(batch, rows) if same_samples else None, chosen_samples(moved, rows)


def _finite(values: Tensor) -> Tensor:
    return values.nan_to_num(0, 0, 0) if values.is_floating_point() else values
