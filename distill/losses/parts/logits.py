"""What the losses and metrics on logits share: checks, reduction, and the target class apart from the others."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError

Reduction = Literal["none", "mean", "sum"]


def check_logits(student: Tensor, teacher: Tensor, target: Tensor | None = None) -> None:
    """Raises a ValueError unless the shapes belong together.

    Args:
        student: ``(N, C, *)``.
        teacher: Of the same shape.
        target: Class indices ``(N, *)``.

    Raises:
        ValueError: The shapes differ, there is no class dimension, or the target holds no integers.
    """
    if student.shape != teacher.shape:
        raise UserError(
            f"student and teacher must have the same shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if student.ndim < 2:
        raise UserError(f"logits must have shape (N, C, *), got {tuple(student.shape)}")
    if target is None:
        return
    expected = (student.shape[0], *student.shape[2:])
    if target.shape != expected:
        raise UserError(
            f"target must have shape {expected} for logits of shape {tuple(student.shape)}, got {tuple(target.shape)}"
        )
    if target.is_floating_point():
        raise UserError(f"target must hold class indices, got {target.dtype}")


def check_two_classes(logits: Tensor) -> None:
    """Raises a ValueError where there is no class beside the target class."""
    if logits.shape[1] < 2:
        raise UserError(f"there must be at least 2 classes on dim 1, got shape {tuple(logits.shape)}")


def check_temperature(temperature: float) -> None:
    """Raises a ValueError unless the temperature is positive."""
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}")


def check_reduction(reduction: str) -> None:
    """Raises a ValueError unless ``reduction`` is one of ``none``, ``mean`` and ``sum``."""
    if reduction not in get_args(Reduction):
        raise UserError(f"reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")


def reduce_losses(losses: Tensor, reduction: Reduction, counted: Tensor | None = None) -> Tensor:
    """Reduces one value a position; those that do not count are 0 already.

    Args:
        losses: ``(N, *)``.
        reduction: ``"mean"`` divides the sum by the number of positions that count, or by 1 where none does.
        counted: True where a position counts, ``(N, *)``; all do where it is not given.

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
    """Reduces losses of which a sample's is the mean, by way of sums: the gradient of a sum is a view of few numbers.

    Args:
        losses: ``(N, *)``, with as many values in every sample.
        reduction: ``"mean"`` is that of all values.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar.
    """
    if reduction == "none":
        values = losses.unsqueeze(-1).flatten(1)
        return values.sum(1) / max(1, values.shape[1])
    return losses.sum() / max(1, losses.numel() if reduction == "mean" else losses[:1].numel())


def where_counted(logits: Tensor, counted: Tensor) -> Tensor:
    """The logits, and 0, without gradient, where a position does not count.

    Setting a loss to 0 there is not enough: its formula may have no finite gradient, as at NaN or infinite logits, and
    0 times that is NaN.

    Args:
        logits: ``(N, C, *)``.
        counted: True where a position counts, ``(N, *)``.
    """
    return torch.where(counted.unsqueeze(1), logits, 0)


def at_least_float32(logits: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def kl_divergence(log_student: Tensor, log_teacher: Tensor, dim: int = 1) -> Tensor:
    """KL(teacher || student) in nats, from log-probabilities along a dim, which the result has no more."""
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim)


def split_target(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target class against all others together, and the others among themselves, as log-probabilities.

    The target's logit is replaced by a number so low that its probability among the others is exactly 0 whatever they
    are, and yet finite: it is the same for student and teacher, and 0 times their difference is 0. So both
    distributions and their gradients are finite, and neither depends on the target's logit where it should not.

    Args:
        logits: ``(N, C, *)``, C at least 2.
        target: Class indices ``(N, *)`` in 0 to C - 1.

    Returns:
        binary: ``(N, 2, *)``, log p_t and log(1 - p_t), of which 1 - p_t has its full relative precision.
        others: ``(N, C, *)``, the logarithms of the probabilities among the non-target classes.
    """
    index = target.long().unsqueeze(1)
    others = logits.scatter(1, index, torch.finfo(logits.dtype).min / 2)
    highest = others.detach().amax(1, keepdim=True)
    others = others - highest
    log_total = others.exp().sum(1, keepdim=True).log()
    binary = torch.cat([logits.gather(1, index) - highest, log_total], 1)
    return F.log_softmax(binary, 1), others - log_total
