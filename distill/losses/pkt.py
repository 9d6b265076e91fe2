"""Probabilistic knowledge transfer: the probability of each sample as a neighbour of another."""

from __future__ import annotations

from torch import Tensor

from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pairwise import mean_of_pairs, rows
from distill.losses.parts.precision import without_autocast


@without_autocast
def pkt_loss(student: Tensor, teacher: Tensor, *, eps: float = 1e-7) -> Tensor:
    r"""The KL divergence of the student's neighbourhoods from the teacher's, in nats, the mean over N^2 pairs.

    .. math::
        \frac{1}{N^2} \sum_{i, j} p^T_{j | i} \log \frac{p^T_{j | i} + \epsilon}{p^S_{j | i} + \epsilon}, \quad
        p_{j | i} = \frac{K(x_i, x_j)}{\sum_k K(x_i, x_k)}, \quad
        K(a, b) = \frac{1}{2} \left( \frac{a^\top b}{\lVert a \rVert \lVert b \rVert} + 1 \right)

    It does not change if the features of one network are scaled or rotated. The paper leaves a sample out of its own
    neighbourhood and sums the divergence. The authors' code keeps the sample and takes the mean over N^2, to which the
    weight of 30000 belongs. The kernel of a row of zeros with any sample is half that of equal rows. The teacher is a
    constant: no gradient flows to it.

    Args:
        student: Features of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's features of the same samples, ``(N, *)``; the dims after N may differ.
        eps: Keeps the logarithm finite; 1e-7 in the authors' code.

    Returns:
        A scalar, 0 for one sample or none; float32, or float64 if the features are float64.

    Raises:
        ValueError: The numbers of samples differ.

    Source: Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018, Sec. 3.
    """
    q, p = (_neighbours(features) for features in rows(student, teacher.detach()))
    return mean_of_pairs(p * ((p + eps).log() - (q + eps).log()))


def _neighbours(features: Tensor) -> Tensor:
    directions = unit_vectors(features)
    # rounding can take the cosine of opposite vectors below -1
    similarities = ((directions @ directions.mT + 1) / 2).clamp(min=0)
    return similarities / similarities.sum(1, keepdim=True)
