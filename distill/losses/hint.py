"""Hints: features of a middle layer of the teacher, which the student's should equal."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.pooling import to_common_size
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_means


def hint_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""The mean squared difference of two features, over channels and positions.

    .. math::
        \frac{1}{C L} \sum_{c, i} (f^S_{c, i} - f^T_{c, i})^2

    The paper has half the sum of the squares. Published code has the mean, to which the weight of 100 belongs. If maps
    differ in size, the larger one is average-pooled, as in published code whose regressor does not bring them to one
    size. The teacher is a constant: no gradient flows to it.

    Args:
        student: The regressor's output on the student's features, ``(N, C, *)``.
        teacher: The teacher's features, ``(N, C, *)``; spatial sizes and dims may differ; see
            :func:`~distill.losses.parts.pooling.to_common_size`.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the features are float64.

    Raises:
        ValueError: The reduction is unknown, or the numbers of samples or channels differ.

    Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3.
    """
    check_reduction(reduction)
    of_student, of_teacher = to_common_size(student, teacher.detach())
    if of_student.shape != of_teacher.shape:
        raise UserError(
            "student and teacher must have the same number of channels, as a regressor gives, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    return reduce_means(F.mse_loss(of_student, of_teacher, reduction="none"), reduction)
