"""Dynamically-weighted logit distillation: each non-target class of each position has its own weight."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from distill.checks import check_option, check_positive
from distill.errors import UserError
from distill.losses.parts.logits import (
    check_logits,
    check_two_classes,
    kl_divergence,
    kl_terms,
    softened,
    split_target,
    where_counted,
)
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.recompute import in_chunks
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses

Form = Literal["kl", "bregman"]


def dwld_terms(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    beta: Tensor,
    *,
    temperature: float = 1.0,
    form: Form = "kl",
    ignore_index: int = 255,
) -> tuple[Tensor, Tensor]:
    r"""The two parts of :func:`dwld_loss` at every position: TCLD and the weighted NCLD, in nats times T^2.

    .. math::
        \mathrm{TCLD} &= T^2 \, \mathrm{KL}([p_k^T, 1 - p_k^T] \,\|\, [p_k^S, 1 - p_k^S]) \\
        \mathrm{NCLD} &= T^2 \sum_{i \ne k} \beta_i \, \hat p_i^T \log(\hat p_i^T / \hat p_i^S)
            && \text{(\texttt{kl})} \\
        \mathrm{NCLD} &= T^2 \sum_{i \ne k} \beta_i \left( \hat p_i^T \log(\hat p_i^T / \hat p_i^S)
            - \hat p_i^T + \hat p_i^S \right) && \text{(\texttt{bregman})}

    with p the softmax of the logits over T, k the target class, and p-hat the softmax over the other classes. Eq. 10
    prints the student's probabilities before the logarithms, which is minus a divergence; these are the divergences
    KL(teacher || student) of eqs. 2-4, which eq. 10 extends. With unequal weights the paper's sum (``kl``) can be
    negative; ``bregman`` has the same value where the weights of a position are equal and is never negative.

    Args:
        student: The student's logits, ``(N, C, *)``, C at least 2.
        teacher: The teacher's logits, of the same shape; no gradient flows to them.
        target: Class indices k ``(N, *)`` in 0 to C - 1, or ``ignore_index``.
        beta: The weight of each class at each position, ``(N, C, *)``; the weights of target classes are not used.
        temperature: T, above 0.
        form: ``kl`` or ``bregman``.
        ignore_index: Both terms are 0 where the target is this.

    Returns:
        ``(tcld, ncld)``, each ``(N, *)``; float32, or float64 if the logits are float64.

    Raises:
        ValueError: The temperature is not positive, the form is unknown, there is one class only, or the shapes do not
            belong together.

    Source: Guo et al., LIX, eqs. 2-4 and 10-12.
    """
    check_positive(temperature=temperature)
    check_logits(student, teacher, target)
    check_two_classes(student)
    if beta.shape != student.shape:
        raise UserError(f"beta must have the shape of the logits, {tuple(student.shape)}, got {tuple(beta.shape)}")
    check_option("form", form, get_args(Form))

    def terms(student: Tensor, teacher: Tensor, target: Tensor, beta: Tensor, counted: Tensor) -> Tensor:
        student = where_counted(at_least_float32(student), counted)
        beta = where_counted(beta.to(student.dtype), counted)
        student_binary, log_q = split_target(softened(student, temperature), target)
        teacher_binary, log_p = split_target(softened(teacher, temperature), target)
        divergence = kl_terms(log_q, log_p)
        if form == "bregman":
            divergence = divergence - log_p.exp() + log_q.exp()
        values = kl_divergence(student_binary, teacher_binary), (beta * divergence).sum(1)
        return torch.stack(values, 1).to(student.dtype)

    counted = target != ignore_index
    values = in_chunks(terms, student, teacher.detach(), torch.where(counted, target, 0), beta, counted)
    tcld, ncld = (temperature**2 * torch.where(counted.unsqueeze(1), values, 0)).unbind(1)
    return tcld, ncld


def dwld_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    beta: Tensor,
    *,
    alpha: float = 1.0,
    temperature: float = 1.0,
    form: Form = "kl",
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Tensor:
    """Dynamically-weighted logit distillation: ``alpha * TCLD + NCLD``, in nats times T^2; see :func:`dwld_terms`.

    Args:
        student: The student's logits, ``(N, C, *)``, C at least 2.
        teacher: The teacher's logits, of the same shape; no gradient flows to them.
        target: Class indices ``(N, *)`` in 0 to C - 1, or ``ignore_index``.
        beta: The weight of each class at each position, ``(N, C, *)``. If all classes have the teacher's 1 - p_t and
            ``alpha`` is 1, the loss is :func:`kd_loss`; if beta is a constant, it is :func:`dkd_loss`.
        alpha: The weight of the target class's term; 1 in the paper.
        temperature: T, above 0.
        form: ``kl`` (the paper's, without a lower bound) or ``bregman`` (0 or more).
        ignore_index: Positions with this target are 0 and do not count in the mean.
        reduction: ``"none"``, ``"mean"`` over the positions that count (0 if none does), or ``"sum"``. Eq. 10 prints
            the sum over the pixels of an image.

    Returns:
        ``(N, *)`` for ``"none"``, else a scalar; float32, or float64 if the logits are float64.

    Raises:
        ValueError: As :func:`dwld_terms`, or the reduction is unknown.

    Source: Guo et al., LIX, eq. 10.
    """
    check_reduction(reduction)
    tcld, ncld = dwld_terms(
        student, teacher, target, beta, temperature=temperature, form=form, ignore_index=ignore_index
    )
    return reduce_losses(alpha * tcld + ncld, reduction, target != ignore_index)
