"""The samples of a batch in messages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.batches import tensors_in

SAMPLES_NAMED = 8
"""The number of samples that an error names; it counts the others."""


def not_finite_rows(values: Tensor) -> Tensor:
    """The rows ``(n,)`` of a tensor ``(N, *)`` that hold NaN or infinity."""
    return (~values.reshape(len(values), -1).isfinite().all(1)).nonzero()[:, 0]


def not_finite_samples(modality: Any) -> Tensor:
    """The rows ``(n,)`` of the samples that hold NaN or infinity in a modality, a tensor or a list of tensors."""
    if isinstance(modality, Tensor):
        return not_finite_rows(modality)
    parts = modality if isinstance(modality, (list, tuple)) else [modality]
    return torch.tensor([at for at, part in enumerate(parts) if not all(x.isfinite().all() for x in tensors_in(part))])


def named_samples(rows: Tensor, index: Tensor | None) -> str:
    """The names of samples, such as ``samples 4, 5 of the data set``.

    Args:
        rows: Their rows in the batch.
        index: The positions of all samples of the batch in their data set, if these are known.
    """
    numbers = rows if index is None else index[rows]
    named = ", ".join(map(str, numbers[:SAMPLES_NAMED].tolist()))
    rest = f" and {len(rows) - SAMPLES_NAMED} more" if len(rows) > SAMPLES_NAMED else ""
    return f"samples {named}{rest} of the {'batch' if index is None else 'data set'}"
