"""Shared by the losses and metrics on logits: checks, divergences, and the split into target and other classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError


def check_logits(student: Tensor, teacher: Tensor, target: Tensor | None = None) -> None:
    """Checks that the shapes of logits and target belong together.

    Args:
        student: ``(N, C, *)``.
        teacher: The same shape.
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
    """Raises a ValueError if there is no class beside the target class."""
    if logits.shape[1] < 2:
        raise UserError(f"there must be at least 2 classes on dim 1, got shape {tuple(logits.shape)}")


def where_counted(logits: Tensor, counted: Tensor) -> Tensor:
    """The logits with 0, which has no gradient, at positions that do not count.

    It is not enough to set the loss to 0 there: NaN or infinite logits may have no finite gradient, and 0 times that is
    NaN.

    Args:
        logits: ``(N, C, *)``.
        counted: True where a position counts, ``(N, *)``.
    """
    return torch.where(counted.unsqueeze(1), logits, 0)


def kl_divergence(log_student: Tensor, log_teacher: Tensor, dim: int = 1) -> Tensor:
    """KL(teacher || student) in nats, from log-probabilities along a dim, which is summed over."""
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim)


def split_target(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities of target and non-target, and those among the non-target classes.

    Among the non-target classes the target's logit is replaced by a number so low that its probability is exactly 0.
    The number is finite and the same for student and teacher, so 0 times their difference is 0. So both distributions
    and their gradients are finite, and the second does not depend on the target's logit.

    Args:
        logits: ``(N, C, *)``, C at least 2.
        target: Class indices ``(N, *)`` in 0 to C - 1.

    Returns:
        binary: ``(N, 2, *)``, log p_t and log(1 - p_t); 1 - p_t has its full relative precision.
        others: ``(N, C, *)``, the log-probabilities among the non-target classes.
    """
    index = target.long().unsqueeze(1)
    others = logits.scatter(1, index, torch.finfo(logits.dtype).min / 2)
    highest = others.detach().amax(1, keepdim=True)
    others = others - highest
    log_total = others.exp().sum(1, keepdim=True).log()
    binary = torch.cat([logits.gather(1, index) - highest, log_total], 1)
    return F.log_softmax(binary, 1), others - log_total
