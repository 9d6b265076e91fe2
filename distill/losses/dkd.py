"""Decoupled knowledge distillation on logits: the target class and the non-target classes apart."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.checks import check_positive
from distill.losses.parts.logits import (
    check_logits,
    check_two_classes,
    kl_divergence,
    softened,
    split_target,
    where_counted,
)
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.recompute import in_chunks
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses


def decoupled_kd_terms(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    ignore_index: int = 255,
) -> tuple[Tensor, Tensor]:
    r"""The two parts of :func:`kd_loss` at every position: TCKD and NCKD, in nats times T^2.

    .. math::
        \mathrm{TCKD} &= T^2 \, \mathrm{KL}([p_t^T, 1 - p_t^T] \,\|\, [p_t^S, 1 - p_t^S]) \\
        \mathrm{NCKD} &= T^2 \, \mathrm{KL}(\hat p^T \,\|\, \hat p^S)

    with p the softmax of the logits over T, p_t its entry for the target class, and p-hat the softmax over the
    non-target classes only. ``kd_loss = tckd + (1 - p_t^T) * nckd``. With two classes NCKD is exactly 0. The teacher
    is a constant: no gradient flows to it.

    Args:
        student: The student's logits, ``(N, C, *)``, C at least 2.
        teacher: The teacher's logits, of the same shape.
        target: Class indices ``(N, *)`` in 0 to C - 1, or ``ignore_index``.
        temperature: T, above 0.
        ignore_index: Both terms are 0 where the target is this.

    Returns:
        ``(tckd, nckd)``, each ``(N, *)``; float32, or float64 if the logits are float64.

    Raises:
        ValueError: The temperature is not positive, there is one class only, or the shapes do not belong together.

    Source: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, Sec. 3.
    """
    check_positive(temperature=temperature)
    check_logits(student, teacher, target)
    check_two_classes(student)

    def terms(student: Tensor, teacher: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        student = where_counted(at_least_float32(student), counted)
        student_binary, student_others = split_target(softened(student, temperature), target)
        teacher_binary, teacher_others = split_target(softened(teacher, temperature), target)
        values = kl_divergence(student_binary, teacher_binary), kl_divergence(student_others, teacher_others)
        return torch.stack(values, 1).to(student.dtype)

    counted = target != ignore_index
    values = in_chunks(terms, student, teacher.detach(), torch.where(counted, target, 0), counted)
    tckd, nckd = (temperature**2 * torch.where(counted.unsqueeze(1), values, 0)).unbind(1)
    return tckd, nckd


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Tensor:
    """Decoupled knowledge distillation: ``alpha * TCKD + beta * NCKD``, in nats times T^2.

    Args:
        student: The student's logits, ``(N, C, *)``, C at least 2.
        teacher: The teacher's logits, of the same shape; no gradient flows to them.
        target: Class indices ``(N, *)`` in 0 to C - 1, or ``ignore_index``.
        alpha: Weight of the target class's term.
        beta: Weight of the non-target classes' term.
        temperature: T, above 0.
        ignore_index: Positions with this target are 0 and do not count in the mean.
        reduction: ``"none"``, ``"mean"`` over the positions that count (0 if none does), or ``"sum"``.

    Returns:
        ``(N, *)`` for ``"none"``, else a scalar; float32, or float64 if the logits are float64.

    Raises:
        ValueError: As :func:`decoupled_kd_terms`, or the reduction is unknown.

    Source: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, eq. 7.
    """
    check_reduction(reduction)
    tckd, nckd = decoupled_kd_terms(student, teacher, target, temperature=temperature, ignore_index=ignore_index)
    return reduce_losses(alpha * tckd + beta * nckd, reduction, target != ignore_index)
