"""Relational knowledge distillation: distances and angles between the samples of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses.parts.pairwise import (
    distances,
    of_no_pair,
    rows,
    squared_distances,
    squared_distances_of_pairs,
)
from distill.losses.parts.recompute import in_chunks

EQUAL = 1e-30
"""Samples with a smaller squared distance count as equal: in float32 the gradient of its root would overflow."""


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""The smooth L1 difference of the distances between samples, divided by their mean; the mean over N^2 pairs.

    .. math::
        \frac{1}{N^2} \sum_{i, j} l_1 \left( \frac{\lVert s_i - s_j \rVert}{\mu_S},
            \frac{\lVert t_i - t_j \rVert}{\mu_T} \right)

    with :math:`\mu` the mean of the distances that are not 0. It does not change if the features of one network are
    scaled, rotated or moved. The paper prints a sum over pairs and a mean over all distances; published code, as here,
    takes a mean over pairs and the mean over the distances above 0. The gradient flows through :math:`\mu_S`; the
    teacher is a constant.

    Args:
        student: Features of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's features of the same samples, ``(N, *)``; the dims after N may differ.

    Returns:
        A scalar, 0 for one sample or none; float32, or float64 if the features are float64.

    Raises:
        ValueError: The numbers of samples differ.

    Source: Park et al., Relational Knowledge Distillation, CVPR 2019, eqs. 5-8.
    """
    pair = rows(student, teacher.detach())
    if len(student) < 2:
        return of_no_pair(student)
    of_student, of_teacher = (_relative_distances(features) for features in pair)
    return 2 * F.smooth_l1_loss(of_student, of_teacher, reduction="sum") / len(student) ** 2


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""The smooth L1 difference of the cosines at each sample between two others; the mean over N^3 triplets.

    .. math::
        \frac{1}{N^3} \sum_{i, j, k} l_1 \left( \langle e^S_{ij}, e^S_{kj} \rangle, \langle e^T_{ij}, e^T_{kj} \rangle
            \right), \quad e_{ij} = \frac{t_i - t_j}{\lVert t_i - t_j \rVert}

    where e of two equal samples is 0. It does not change if the features of one network are scaled, rotated or moved.
    The paper prints a sum over triplets, published code takes the mean. The teacher is a constant: no gradient flows to
    it.

    The cosines follow from the N^2 distances (law of cosines) and are computed for a few samples j at a time. So
    neither the differences, N^2 times the width of a feature, nor all N^3 cosines exist at once.

    Args:
        student: Features of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's features of the same samples, ``(N, *)``; the dims after N may differ.

    Returns:
        A scalar, 0 for one sample or none; float32, or float64 if the features are float64.

    Raises:
        ValueError: The numbers of samples differ.

    Source: Park et al., Relational Knowledge Distillation, CVPR 2019, eqs. 8-10.
    """
    pair = rows(student, teacher.detach())
    samples = len(student)
    if samples < 2:
        return of_no_pair(student)
    of_student, of_teacher = (_unequal(squared_distances(x, x)) for x in pair)
    few = max(1, max(student.numel(), teacher.numel()) // 4 // samples**2)
    values = in_chunks(_at_vertices, of_student, of_teacher, shared=(of_student, of_teacher), rows=few)
    return values.sum() / samples**3


def _relative_distances(features: Tensor) -> Tensor:
    """The distances of all pairs of samples, divided by the mean of those above 0."""
    apart = distances(_unequal(squared_distances_of_pairs(features)))
    return apart * ((apart > 0).sum() / torch.where(apart.any(), apart.sum(), 1))


def _unequal(squared: Tensor) -> Tensor:
    """Squared distances with 0 for samples that count as equal."""
    return torch.where(squared < EQUAL, 0, squared)


def _at_vertices(student_rows: Tensor, teacher_rows: Tensor, of_student: Tensor, of_teacher: Tensor) -> Tensor:
    cosines = _cosines(student_rows, of_student), _cosines(teacher_rows, of_teacher)
    return F.smooth_l1_loss(*cosines, reduction="none").sum((1, 2))


def _cosines(from_vertices: Tensor, squared: Tensor) -> Tensor:
    """The cosines at some of the samples, ``(n, N)`` and ``(N, N)`` squared distances to ``(n, N, N)``."""
    lengths = distances(from_vertices)
    equal = lengths == 0
    inverse = torch.where(equal, 0, 1 / torch.where(equal, 1, lengths))
    products = from_vertices.unsqueeze(2) + from_vertices.unsqueeze(1) - squared
    return products * inverse.unsqueeze(2) * inverse.unsqueeze(1) / 2
