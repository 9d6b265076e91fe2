"""Correlation congruence: a kernel's view of how the samples of a batch lie to each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.pairwise import rows
from distill.losses.parts.precision import without_autocast
from distill.losses.parts.unit import unit_vectors


@without_autocast
def cc_loss(student: Tensor, teacher: Tensor, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    r"""The squared difference of the samples' correlations under a Gaussian kernel, over N^2.

    .. math::
        \frac{1}{N^2} \lVert K(S) - K(T) \rVert_F^2, \quad K(X)_{i, j} = e^{-2 \gamma}
            \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!} (x_i^\top x_j)^p

    which is the Taylor series of :math:`e^{-\gamma \lVert x_i - x_j \rVert^2}` for embeddings x, which are divided by
    their length first. It does not change when either side's embeddings are scaled or rotated. Widespread
    code multiplies the differences of neighbouring rows instead, and so depends on the order of the batch; this is the
    paper's form. Gradients flow to both sides, as both embeddings are trained.

    Args:
        student: Embeddings of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's of the same samples, ``(N, *)``; the dims after N may differ.
        gamma: Of the kernel; 0.4 in the paper.
        order: P, where the series ends; 2 in the paper.

    Returns:
        A scalar, 0 for one sample; float32, or float64 where the embeddings are.

    Raises:
        ValueError: The numbers of samples differ, gamma is not positive, or the order is below 1.

    Source: Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, Sec. 3.
    """
    if not gamma > 0:
        raise UserError(f"gamma must be positive, got {gamma}")
    if order < 1:
        raise UserError(f"order must be 1 or more, got {order}")
    ours, theirs = (_kernel(unit_vectors(embeddings), gamma, order) for embeddings in rows(student, teacher))
    return (ours - theirs).square().mean()


def _kernel(directions: Tensor, gamma: float, order: int) -> Tensor:
    cosines = directions @ directions.mT
    total = torch.ones_like(cosines)
    for p in range(order, 0, -1):  # Horner: 1 + x (1 + x / 2 (1 + ...)) with x = 2 gamma cos
        total = 1 + 2 * gamma / p * cosines * total
    return math.exp(-2 * gamma) * total
