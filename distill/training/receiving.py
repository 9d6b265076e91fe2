"""Brings what a loader gives into the form of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.batches import Batch, check_named, chosen_samples, complete_rows


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
