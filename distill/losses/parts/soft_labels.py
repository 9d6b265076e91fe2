"""Soft labels: a distribution over the classes for each sample, such as a mixup of two labels or the share of votes."""

from __future__ import annotations

import torch
from torch import Tensor


def is_labelled(target: Tensor) -> Tensor:
    """Whether each row ``(N, C)`` is a distribution, ``(N,)``; rows of zeros or of NaN are no label."""
    return ~(target.isnan().all(1) | (target == 0).all(1))


def class_indices(target: Tensor, ignore_index: int) -> Tensor:
    """The class of the highest share in each row ``(N, C)``, ``(N,)``: the first of equal ones.

    Rows without a label are ``ignore_index``. Targets that are class indices already are returned unchanged.
    """
    if not target.is_floating_point():
        return target
    return torch.where(is_labelled(target), target.argmax(1), ignore_index)
