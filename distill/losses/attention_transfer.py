"""Attention transfer: the positions at which a layer is active."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pooling import check_positions, to_common_size
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_means


def at_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""The mean squared difference of two attention maps, over positions.

    .. math::
        \frac{1}{L} \sum_{i=1}^L \left( \frac{Q^S_i}{\lVert Q^S \rVert_2} - \frac{Q^T_i}{\lVert Q^T \rVert_2} \right)^2,
        \quad Q_i = \frac{1}{C} \sum_{c=1}^C f_{c, i}^2

    It does not depend on the scale of a map, nor on the order or the number of its channels. The paper prints half the
    norm of the difference, and the sum of the squares for Q. The authors' code takes the mean of the squared
    difference, to which the weight of 1000 belongs, and average-pools the larger map to the smaller one's size first,
    as here. The teacher is a constant: no gradient flows to it.

    Args:
        student: Feature maps f, ``(N, C, *)``, with more than one position.
        teacher: The teacher's maps, ``(N, D, *)``; channels and spatial sizes may differ, and one of both may have 3
            spatial dims and the other 2; see :func:`~distill.losses.parts.pooling.to_common_size`.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the features are float64.

    Raises:
        ValueError: The reduction is unknown, the numbers of samples differ, or the maps share no positions, or one
            only, where the loss would be constant.

    Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2.
    """
    check_reduction(reduction)
    check_positions(student, teacher)
    of_student, of_teacher = (
        unit_vectors(features.square().mean(1).flatten(1)) for features in to_common_size(student, teacher.detach())
    )
    return reduce_means(F.mse_loss(of_student, of_teacher, reduction="none"), reduction)
