"""Correlation congruence: the correlations between the samples of a batch under a kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill.checks import check_at_least, check_positive
from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pairwise import mean_of_pairs, rows
from distill.losses.parts.precision import without_autocast


@without_autocast
def cc_loss(
    student: Tensor, teacher: Tensor, *, gamma: float = 0.4, order: int = 2, teacher_gradient: bool = False
) -> Tensor:
    r"""The squared difference of the samples' correlations under a Gaussian kernel, divided by N^2.

    .. math::
        \frac{1}{N^2} \lVert K(S) - K(T) \rVert_F^2, \quad K(X)_{i, j} = e^{-2 \gamma}
            \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!} (x_i^\top x_j)^p

    This is the Taylor series of :math:`e^{-\gamma \lVert x_i - x_j \rVert^2}` for embeddings x, which are divided by
    their length first. It does not change if the embeddings of one network are scaled or rotated. Widespread code
    multiplies the differences of neighbouring rows instead, which depends on the order of the batch; this is the
    paper's form.

    Args:
        student: Embeddings of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's embeddings of the same samples, ``(N, *)``; the dims after N may differ.
        gamma: The kernel's gamma; 0.4 in the paper.
        order: P, the order of the series; 2 in the paper.
        teacher_gradient: Whether gradients flow to the teacher's embeddings too: True if their layer is trained, as in
            the paper. By default the teacher is a constant.

    Returns:
        A scalar, 0 for one sample or none; float32, or float64 if the embeddings are float64.

    Raises:
        ValueError: The numbers of samples differ, gamma is not positive, or the order is below 1.

    Source: Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, Sec. 3.
    """
    check_positive(gamma=gamma)
    check_at_least(1, order=order)
    embeddings = rows(student, teacher if teacher_gradient else teacher.detach())
    of_student, of_teacher = (_kernel(unit_vectors(rows_), gamma, order) for rows_ in embeddings)
    return mean_of_pairs((of_student - of_teacher).square())


def _kernel(directions: Tensor, gamma: float, order: int) -> Tensor:
    cosines = directions @ directions.mT
    total = torch.ones_like(cosines)
    for p in range(order, 0, -1):  # Horner: 1 + x (1 + x / 2 (1 + ...)) with x = 2 gamma cos
        total = 1 + 2 * gamma / p * cosines * total
    return math.exp(-2 * gamma) * total
