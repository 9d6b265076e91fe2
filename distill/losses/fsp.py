"""The flow of the solution procedure: products of the features of two layers of a network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.pooling import check_shared_dims, to_common_size
from distill.losses.parts.precision import at_least_float32, without_autocast
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_means


@without_autocast
def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    r"""The products of each channel of one layer with each channel of another, as means over positions.

    .. math::
        G_{i, j} = \frac{1}{H W} \sum_{s=1}^{H} \sum_{t=1}^{W} F^1_{i, s, t} F^2_{j, s, t}

    The paper takes layers of equal size. If the sizes differ, the larger map is average-pooled, as in published code.

    Args:
        first: Feature maps of a layer, ``(N, C, *)``, with at least one dim of positions.
        second: Feature maps of a later layer of the same network, ``(N, D, *)``.

    Returns:
        ``(N, C, D)``; float32, or float64 if the features are float64.

    Raises:
        ValueError: The numbers of samples differ, or the maps share no positions.

    Source: Yim et al., A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
    Learning, CVPR 2017, eq. 1.
    """
    check_shared_dims(first, second)
    one, other = (features.flatten(2) for features in to_common_size(first, second))
    return one @ other.mT / one.shape[2]


def fsp_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""The mean squared difference of two FSP matrices.

    The paper prints the squared Frobenius norm of the difference; published code takes the mean over its entries, as
    here. The teacher is a constant: no gradient flows to it.

    Args:
        student: :func:`fsp_matrix` of two layers of the student, ``(N, C, D)``.
        teacher: That of the teacher, of the same shape: its layers have the same channel counts, or 1x1 convolutions
            bring the student's to them.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the matrices are float64.

    Raises:
        ValueError: The reduction is unknown, or the shapes differ.

    Source: Yim et al., CVPR 2017, eq. 2.
    """
    check_reduction(reduction)
    if student.shape != teacher.shape or student.ndim != 3:
        raise UserError(
            "the FSP matrices of student and teacher must have the same shape (N, C, D), from layers with the same "
            f"numbers of channels, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    errors = F.mse_loss(at_least_float32(student), at_least_float32(teacher.detach()), reduction="none")
    return reduce_means(errors, reduction)
