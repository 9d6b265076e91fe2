"""Hints: features of a middle layer that the student's are to equal."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.logits import Reduction, check_reduction, reduce_means
from distill.losses.parts.pooling import to_common_size


def hint_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""The mean squared difference of two features, over channels and positions.

    .. math::
        \frac{1}{C L} \sum_{c, i} (f^S_{c, i} - f^T_{c, i})^2

    The paper has half the sum of the squares; published code, and the weight of 100 that goes with it, the mean. Of
    maps of different sizes the larger is average-pooled, as published code does where the regressor does not convolve
    them to one size. The teacher is a constant: no gradient flows to it.

    Args:
        student: What the regressor makes of the student's features, ``(N, C, *)``.
        teacher: The teacher's, ``(N, C, *)``; the spatial dims may have other sizes.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 where the features are.

    Raises:
        ValueError: The reduction is unknown, or the numbers of samples, channels or dims differ.

    Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3.
    """
    check_reduction(reduction)
    ours, theirs = to_common_size(student, teacher.detach())
    if ours.shape != theirs.shape:
        raise UserError(
            "student and teacher must have the same number of channels, as a regressor gives, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    return reduce_means(F.mse_loss(ours, theirs, reduction="none"), reduction)
