"""Adversarial distillation: the losses of a discriminator and of the student that it judges."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_option
from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_means

Form = Literal["non_saturating", "hinge"]


def discriminator_loss(
    student: Tensor, teacher: Tensor, *, form: Form = "non_saturating", reduction: Reduction = "mean"
) -> Tensor:
    r"""The loss of a discriminator D that tells the teacher's output from the student's.

    ================== ==============================================================================
    ``non_saturating`` :math:`-\log \sigma(D(t)) - \log(1 - \sigma(D(s)))`, in nats
    ``hinge``          :math:`\max(0, 1 - D(t)) + \max(0, 1 + D(s))`
    ================== ==============================================================================

    Args:
        student: The scores D(s), logits, of the student's output, ``(N, *)``. Detach that output from the student.
        teacher: The scores D(t) of the teacher's output, of the same shape.
        form: One of the above.
        reduction: ``"none"`` for one value a sample, the mean of its scores, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the scores are float64.

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
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if form == "hinge":
        losses = F.relu(1 + student) + F.relu(1 - teacher)
    else:
        losses = F.softplus(student) + F.softplus(-teacher)
    return reduce_means(losses, reduction)


def deception_loss(student: Tensor, *, form: Form = "non_saturating", reduction: Reduction = "mean") -> Tensor:
    r"""The loss of a student that should be taken for the teacher by a discriminator D.

    ================== ==============================================================================
    ``non_saturating`` :math:`-\log \sigma(D(s))`, in nats
    ``hinge``          :math:`-D(s)`, without a lower bound
    ================== ==============================================================================

    ``non_saturating`` is not the negative of the discriminator's term: the gradient of that vanishes if the
    discriminator is sure.

    Args:
        student: The scores D(s), logits, of the student's output, ``(N, *)``.
        form: One of the above.
        reduction: ``"none"`` for one value a sample, the mean of its scores, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the scores are float64.

    Raises:
        ValueError: The form or the reduction is unknown.

    Source: as :func:`discriminator_loss`; Goodfellow et al., NeurIPS 2014, Sec. 3.
    """
    _check(form, reduction)
    scores = at_least_float32(student)
    losses = F.softplus(-scores) if form == "non_saturating" else -scores
    return reduce_means(losses, reduction)


def _check(form: str, reduction: str) -> None:
    check_option("form", form, get_args(Form))
    check_reduction(reduction)
