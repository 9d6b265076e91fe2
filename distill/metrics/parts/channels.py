"""Targets with a value for each channel of a prediction."""

from __future__ import annotations

from torch import Tensor


def with_channel(target: Tensor) -> Tensor:
    """A target ``(N,)`` as ``(N, 1)``; others are returned unchanged."""
    return target.unsqueeze(1) if target.ndim == 1 else target


def by_position(values: Tensor) -> Tensor:
    """Values ``(N, D, *)`` or ``(N,)`` as ``(P, D)``, with a row for each position of each sample."""
    return with_channel(values).unsqueeze(-1).flatten(2).movedim(1, -1).flatten(0, 1)
