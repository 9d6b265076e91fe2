"""What the losses and metrics on logits share: checks, reduction, and the target class apart from the others."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

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
        raise ValueError(
            f"student and teacher must have the same shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if student.ndim < 2:
        raise ValueError(f"logits must have shape (N, C, *), got {tuple(student.shape)}")
    if target is None:
        return
    expected = (student.shape[0], *student.shape[2:])
    if target.shape != expected:
        raise ValueError(
            f"target must have shape {expected} for logits of shape {tuple(student.shape)}, got {tuple(target.shape)}"
        )
    if target.is_floating_point():
        raise ValueError(f"target must hold class indices, got {target.dtype}")


def check_two_classes(logits: Tensor) -> None:
    """Raises a ValueError where there is no class beside the target class."""
    if logits.shape[1] < 2:
        raise ValueError(f"there must be at least 2 classes on dim 1, got shape {tuple(logits.shape)}")


def check_temperature(temperature: float) -> None:
    """Raises a ValueError unless the temperature is positive."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def check_reduction(reduction: str) -> None:
    """Raises a ValueError unless ``reduction`` is one of ``none``, ``mean`` and ``sum``."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")


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


def counted_gradient(logits: Tensor, counted: Tensor) -> Tensor:
    """The logits, with no gradient where a position does not count.

    Setting a loss to 0 there is not enough: its formula may have no finite gradient, as at NaN or infinite logits, and
    0 times that is NaN.

    Args:
        logits: ``(N, C, *)``.
        counted: True where a position counts, ``(N, *)``.
    """
    guarded: Tensor = _CountedGradient.apply(logits, counted.unsqueeze(1))
    return guarded


def at_least_float32(logits: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) over dim 1 in nats, ``(N, C, *)`` to ``(N, *)``."""
    return F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True).sum(1)


def without_target(values: Tensor, target: Tensor) -> Tensor:
    """The values of the non-target classes: the last class's is copied into the place that the target class leaves.

    Args:
        values: One a class, ``(N, C, *)``, C at least 2.
        target: Class indices ``(N, *)`` in 0 to C - 1.

    Returns:
        ``(N, C - 1, *)``; their order depends on the target alone.
    """
    target = target.long().unsqueeze(1)
    last = values.shape[1] - 1
    # a target that is the last class leaves no gap: the class before it is then written over itself
    filler = torch.where(target == last, values[:, last - 1 : last], values[:, last:])
    return values[:, :last].scatter(1, target.clamp(max=last - 1), filler)


def split_target(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target class against all others together, and the others among themselves.

    Nothing is masked by a large constant and nothing is set to infinity: the other logits are copied out. A softmax
    over them is the distribution over the non-target classes whatever the target's logit is, and both it and its
    gradient are finite.

    Args:
        logits: ``(N, C, *)``, C at least 2.
        target: Class indices ``(N, *)`` in 0 to C - 1.

    Returns:
        binary: ``(N, 2, *)``, logits of the target class and of all the others together; their softmax is
            ``[p_t, 1 - p_t]``, with 1 - p_t to full relative precision.
        others: ``(N, C - 1, *)``, the logits of the non-target classes, in the order of :func:`without_target`.
    """
    others = without_target(logits, target)
    of_target = logits.gather(1, target.long().unsqueeze(1))
    return torch.cat([of_target, others.logsumexp(1, keepdim=True)], 1), others


class _CountedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, counted: Tensor) -> Tensor:
        ctx.save_for_backward(counted)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (counted,) = ctx.saved_tensors
        return torch.where(counted, gradient, 0), None
