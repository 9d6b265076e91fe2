"""Similarity-preserving distillation: the similarities of the activations of the samples of a batch."""

from __future__ import annotations

from torch import Tensor

from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pairwise import mean_of_pairs, rows
from distill.losses.parts.precision import without_autocast


@without_autocast
def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""The squared difference of the samples' similarities, divided by N^2.

    .. math::
        \frac{1}{N^2} \lVert G^T - G^S \rVert_F^2, \quad G_{[i, :]} = \tilde G_{[i, :]} / \lVert \tilde G_{[i, :]}
            \rVert_2, \quad \tilde G = Q Q^\top

    where the features of one sample are a row of Q. It does not change if the features of one network are scaled or
    rotated. The rows of G have L2 norm 1, as printed; some libraries take the L1 norm. The teacher is a constant: no
    gradient flows to it.

    Args:
        student: Features of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's features of the same samples, ``(N, *)``; the dims after N may differ.

    Returns:
        A scalar, 0 for one sample or none; float32, or float64 if the features are float64.

    Raises:
        ValueError: The numbers of samples differ.

    Source: Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, Sec. 3.
    """
    of_student, of_teacher = (unit_vectors(features @ features.mT) for features in rows(student, teacher.detach()))
    return mean_of_pairs((of_student - of_teacher).square())
