"""Neuron selectivity transfer: the distribution of the positions at which channels are active."""

from __future__ import annotations

from torch import Tensor

from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pooling import check_positions, to_common_size
from distill.losses.parts.precision import without_autocast
from distill.losses.parts.recompute import in_chunks
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses


@without_autocast
def nst_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""The squared maximum mean discrepancy of two sets of channel maps, under the kernel :math:`(x^\top y)^2`.

    .. math::
        \frac{1}{C^2} \sum_{c, c'} (s_c^\top s_{c'})^2 + \frac{1}{D^2} \sum_{d, d'} (t_d^\top t_{d'})^2
            - \frac{2}{C D} \sum_{c, d} (s_c^\top t_d)^2

    with s the map of a channel of the student and t that of the teacher, flattened and divided by its length. It is 0
    if the channels are equal up to their order and scale. The value includes the teacher's own term, which has no
    gradient. As in published code the larger map is average-pooled to the smaller one's size first. The teacher is a
    constant: no gradient flows to it.

    The sums are the Frobenius norms of Gram matrices, either of the channels or of the positions. A sample needs
    matrices of the smaller of these two numbers, and never all products of channels and positions.

    Args:
        student: Feature maps, ``(N, C, *)``, with more than one position.
        teacher: The teacher's maps, ``(N, D, *)``; channels and spatial sizes may differ, and one of both may have 3
            spatial dims and the other 2; see :func:`~distill.losses.parts.pooling.to_common_size`.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the features are float64.

    Raises:
        ValueError: The reduction is unknown, the numbers of samples differ, or the maps share no positions, or one
            only, where the loss would be constant.

    Source: Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017, Sec. 4, with
    the polynomial kernel of degree 2 and offset 0.
    """
    check_reduction(reduction)
    check_positions(student, teacher)
    return reduce_losses(in_chunks(_discrepancy, student, teacher.detach()), reduction)


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    of_student, of_teacher = (unit_vectors(maps.flatten(2)) for maps in to_common_size(student, teacher))
    channels, others, positions = of_student.shape[1], of_teacher.shape[1], of_student.shape[2]
    if 2 * positions**2 <= channels**2 + others**2 + channels * others:
        return (_mean_product(of_student) - _mean_product(of_teacher)).square().sum((1, 2))
    return _discrepancy_of_channels(of_student, of_teacher)


def _mean_product(maps: Tensor) -> Tensor:
    """The mean over channels of the outer product of each map with itself, ``(N, C, L)`` to ``(N, L, L)``."""
    return maps.mT @ maps / maps.shape[1]


def _discrepancy_of_channels(student: Tensor, teacher: Tensor) -> Tensor:
    r"""The discrepancy from Gram matrices of the channels.

    Maps of non-negative features have similar directions, so all products are near 1, and float32 leaves few digits of
    the difference of their means. So each map is split into its part along one common direction u and the rest,
    :math:`s = \alpha u + r`. Then
    :math:`(s^\top t)^2 = \alpha_s^2 \alpha_t^2 + 2 \alpha_s \alpha_t r_s^\top r_t + (r_s^\top r_t)^2`,
    and the three discrepancies are computed separately. Their sum is the same for any u.
    """
    u = unit_vectors((student.mean(1, keepdim=True) + teacher.mean(1, keepdim=True)).detach())
    along_s, along_t = student @ u.mT, teacher @ u.mT
    power_s, power_t = along_s.square().mean(1), along_t.square().mean(1)
    first = (power_s - power_t).square().squeeze(1)
    mixed_s = (along_s * student).mean(1) - power_s * u.squeeze(1)
    mixed_t = (along_t * teacher).mean(1) - power_t * u.squeeze(1)
    second = 2 * (mixed_s - mixed_t).square().sum(1)
    within_s = student @ student.mT - along_s @ along_s.mT
    within_t = teacher @ teacher.mT - along_t @ along_t.mT
    between = student @ teacher.mT - along_s @ along_t.mT
    third = sum((w * matrix.square().mean((1, 2)) for w, matrix in ((1, within_s), (1, within_t), (-2, between))), 0)
    return first + second + third
