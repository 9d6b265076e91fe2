"""From one loss a position, or a sample, to what ``reduction`` asks for."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from distill.checks import check_option

Reduction = Literal["none", "mean", "sum"]


def check_reduction(reduction: str) -> None:
    """Raises a ValueError unless ``reduction`` is one of ``none``, ``mean`` and ``sum``."""
    check_option("reduction", reduction, get_args(Reduction))


def reduce_losses(losses: Tensor, reduction: Reduction, counted: Tensor | None = None) -> Tensor:
    """Reduces losses with one value for each position.

    Args:
        losses: ``(N, *)``, 0 where a position does not count.
        reduction: ``"mean"`` divides the sum by the number of positions that count, or by 1 if there is none.
        counted: True where a position counts, ``(N, *)``; by default all positions count.

    Returns:
        ``(N, *)`` for ``"none"``, else a scalar.
    """
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    return total / (max(1, losses.numel()) if counted is None else counted.sum().clamp(min=1))


def reduce_means(losses: Tensor, reduction: Reduction) -> Tensor:
    """Reduces losses with several values for each sample; the loss of a sample is the mean of its values.

    Means are computed as sums divided by a count, because the gradient of a sum takes no memory: it is an expanded
    view of a few numbers.

    Args:
        losses: ``(N, *)``.
        reduction: ``"mean"`` is the mean of all values.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar.
    """
    if reduction == "none":
        values = losses.unsqueeze(-1).flatten(1)
        return values.sum(1) / max(1, values.shape[1])
    return losses.sum() / max(1, losses.numel() if reduction == "mean" else losses[:1].numel())
