"""Adversarial distillation: a discriminator that cannot tell the student's output from the teacher's."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.logits import Reduction, at_least_float32, check_reduction, reduce_means
from distill.losses.parts.softplus import softplus

Form = Literal["non_saturating", "hinge"]


def discriminator_loss(
    student: Tensor, teacher: Tensor, *, form: Form = "non_saturating", reduction: Reduction = "mean"
) -> Tensor:
    r"""How badly a discriminator D tells the teacher's output from the student's.

    ================== ==============================================================================
    ``non_saturating`` :math:`-\log \sigma(D(t)) - \log(1 - \sigma(D(s)))`, in nats
    ``hinge``          :math:`\max(0, 1 - D(t)) + \max(0, 1 + D(s))`
    ================== ==============================================================================

    Args:
        student: The scores D(s), logits, of what the student put out, ``(N, *)``; detach that from the student.
        teacher: The scores D(t) of what the teacher put out, of the same shape.
        form: One of the above.
        reduction: ``"none"`` for one value a sample, the mean of its scores, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 where the scores are.

    Raises:
        ValueError: The form or the reduction is unknown, or the shapes differ.

    Source: Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014, eq. 1; Lim and Ye, Geometric GAN, 2017, for
    the hinge. For distillation: Xu et al., 2017 (logits); Wang et al., AAAI 2018 (features).
    """
    _check(form, reduction)
    if student.shape != teacher.shape:
        raise UserError(
            "the scores of student and teacher must have the same shape, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    ours, theirs = at_least_float32(student), at_least_float32(teacher)
    if form == "hinge":
        losses = F.relu(1 + ours) + F.relu(1 - theirs)
    else:
        losses = softplus(ours) + softplus(-theirs)
    return reduce_means(losses, reduction)


def deception_loss(student: Tensor, *, form: Form = "non_saturating", reduction: Reduction = "mean") -> Tensor:
    r"""How far the student is from passing for the teacher: what it trains on against a discriminator D.

    ================== ==============================================================================
    ``non_saturating`` :math:`-\log \sigma(D(s))`, in nats
    ``hinge``          :math:`-D(s)`, without a lower bound
    ================== ==============================================================================

    ``non_saturating`` is not the negative of the discriminator's term, whose gradient vanishes where the discriminator
    is sure.

    Args:
        student: The scores D(s), logits, of what the student put out, ``(N, *)``.
        form: One of the above.
        reduction: ``"none"`` for one value a sample, the mean of its scores, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 where the scores are.

    Raises:
        ValueError: The form or the reduction is unknown.

    Source: as :func:`discriminator_loss`; Goodfellow et al., NeurIPS 2014, Sec. 3.
    """
    _check(form, reduction)
    scores = at_least_float32(student)
    losses = softplus(-scores) if form == "non_saturating" else -scores
    return reduce_means(losses, reduction)


def _check(form: str, reduction: str) -> None:
    if form not in get_args(Form):
        raise UserError(f"form must be non_saturating or hinge, got {form!r}")
    check_reduction(reduction)
