"""Shared by the losses and metrics on logits: checks, divergences, and the split into target and other classes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError

EXACT_ABOVE = 10.0
"""The temperature above which divergences are computed in float64.

The distributions of hot logits are nearly equal. Their divergence falls with T^2, but the rounding errors of its terms
stay: in float32 it has 5 digits at T = 10, 2 at T = 1000, and may be negative at T = 10000.
"""


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


def softened(logits: Tensor, temperature: float) -> Tensor:
    """The logits divided by T, in at least float32; in float64 if T is high, because losses multiply by T^2."""
    # Apple's GPUs have no float64
    dtype = torch.float64 if temperature > EXACT_ABOVE and logits.device.type != "mps" else torch.float32
    return logits.to(torch.promote_types(logits.dtype, dtype)) / temperature


def kl_terms(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """The terms p log(p / q) of KL(teacher || student), from log-probabilities of one shape.

    A term is 0 where the teacher's p is 0, also if q is 0: log-probabilities may be -inf, as those of masked classes.
    """
    p = log_teacher.exp()
    return p * (log_teacher - log_student).masked_fill_(p == 0, 0)


def kl_divergence(log_student: Tensor, log_teacher: Tensor, dim: int = 1) -> Tensor:
    """KL(teacher || student) in nats, the sum of :func:`kl_terms` over a dim."""
    if log_teacher.requires_grad:
        return kl_terms(log_student, log_teacher).sum(dim)
    divergence: Tensor = _Divergence.apply(log_student, log_teacher, dim)[0]
    return divergence


class _Divergence(torch.autograd.Function):
    # autograd would keep the mask of kl_terms and read it again: a third more time for the whole loss on a CPU
    generate_vmap_rule = True

    @staticmethod
    def forward(log_student: Tensor, log_teacher: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        p = log_teacher.exp()
        return (log_teacher - log_student).mul_(p).masked_fill_(p == 0, 0).sum(dim), p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.dim = inputs[2]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        return p * -gradient.unsqueeze(ctx.dim), None, None


def split_target(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities of target and non-target, and those among the non-target classes.

    Among the non-target classes the target's logit is replaced by a number so low that its probability is exactly 0.
    The number is finite and the same for student and teacher, so 0 times their difference is 0. So both distributions
    and their gradients are finite, and the second does not depend on the target's logit. A class may be masked by a
    logit of -inf; if all non-target classes are, none of them has a probability.

    Args:
        logits: ``(N, C, *)``, C at least 2.
        target: Class indices ``(N, *)`` in 0 to C - 1.

    Returns:
        binary: ``(N, 2, *)``, log p_t and log(1 - p_t); 1 - p_t has its full relative precision.
        others: ``(N, C, *)``, the log-probabilities among the non-target classes.
    """
    index = target.long().unsqueeze(1)
    lowest = torch.finfo(logits.dtype).min / 2
    others = logits.scatter(1, index, lowest)
    highest = others.detach().amax(1, keepdim=True)
    all_masked = highest <= lowest
    highest = highest.masked_fill(all_masked, 0)
    others = others - highest
    log_total = others.exp().sum(1, keepdim=True).masked_fill(all_masked, 1).log()
    binary = torch.cat([logits.gather(1, index) - highest, log_total.masked_fill(all_masked, -torch.inf)], 1)
    return F.log_softmax(binary, 1), others - log_total
