"""Contrastive representation distillation: pairs of one sample against pairs of two samples."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_at_least
from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses


def nce_loss(
    positive: Tensor,
    negatives: Tensor,
    *,
    n_data: int,
    log_normalizer: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The noise-contrastive loss of one direction: the negative log-probability of telling all pairs right, in nats.

    .. math::
        -\log h(z^+) - \sum_{k=1}^K \log(1 - h(z_k^-)), \quad h(z) = \frac{e^z / Z}{e^z / Z + K / M}

    with z the product of two embeddings divided by the temperature, K negatives, and noise that is uniform over the M
    samples of the data set. The paper prints Z = 1. The authors' code has another Z (:func:`nce_log_normalizer`) and
    adds 1e-7 to the denominator; here h is a sigmoid, finite for any z. The whole loss of CRD is the sum of two of
    these, one with the student's embedding as the anchor and one with the teacher's.

    Args:
        positive: z of student and teacher embeddings of the same sample, ``(N,)``.
        negatives: z of embeddings of different samples, ``(N, K)``.
        n_data: M, the number of samples in the data set or queue from which the negatives are drawn.
        log_normalizer: log Z.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the logits are float64.

    Raises:
        ValueError: The reduction is unknown, the shapes do not belong together, or ``n_data`` is below 1.

    Source: Tian et al., Contrastive Representation Distillation, ICLR 2020, eqs. 18 and 19.
    """
    check_reduction(reduction)
    if positive.ndim != 1 or negatives.ndim != 2 or len(positive) != len(negatives) or negatives.shape[1] < 1:
        raise UserError(
            "there must be one positive (N,) and K negatives (N, K) a sample, got "
            f"{tuple(positive.shape)} and {tuple(negatives.shape)}"
        )
    check_at_least(1, n_data=n_data)
    shift = log_normalizer + math.log(negatives.shape[1] / n_data)
    of_positive = F.softplus(shift - at_least_float32(positive))
    of_negatives = F.softplus(at_least_float32(negatives) - shift).sum(1)
    return reduce_losses(of_positive + of_negatives, reduction)


def nce_log_normalizer(*, n_data: int, dimension: int, temperature: float) -> float:
    r"""The log Z with which e^z / Z sums to 1 over a data set of random embeddings, as they are at the start.

    .. math::
        \log \left( M \, E_v [e^{u^\top v / \tau}] \right) = \log M
            + \log \sum_{k=0}^\infty \frac{(1 / 4 \tau^2)^k}{k! \, (d / 2) (d / 2 + 1) \cdots (d / 2 + k - 1)}

    for any u of length 1 and v uniform on the sphere. The authors' code takes M times the mean of e^z in its first
    batch. This is an estimate of the same number, because its memory starts at random.

    Args:
        n_data: M, the number of samples in the data set or queue from which the negatives are drawn.
        dimension: d, the length of an embedding.
        temperature: tau, above 0.

    Returns:
        Nats.

    Source: the code published with Tian et al., Contrastive Representation Distillation, ICLR 2020. The mean is that
    of a von Mises-Fisher density, 0F1(; d/2; 1 / 4 tau^2).
    """
    ratio = -2 * math.log(2 * temperature)
    term = total = 0.0  # logarithms, because e^{1 / tau} overflows for small tau
    k = 0
    while term > total - 40:  # terms rise to a maximum, then fall
        term += ratio - math.log(k + 1) - math.log(dimension / 2 + k)
        total = max(total, term) + math.log1p(math.exp(-abs(total - term)))
        k += 1
    return math.log(n_data) + total
