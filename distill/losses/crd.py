"""Contrastive representation distillation: telling pairs of one sample from pairs of two."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses.logits import Reduction, at_least_float32, check_reduction, reduce_losses


def nce_loss(
    positive: Tensor,
    negatives: Tensor,
    *,
    n_data: int,
    log_normalizer: float | Tensor = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The noise-contrastive loss of one direction: minus the log-probability that every pair is told right, in nats.

    .. math::
        -\log h(z^+) - \sum_{k=1}^K \log(1 - h(z_k^-)), \quad h(z) = \frac{e^z / Z}{e^z / Z + K / M}

    with z the product of two embeddings over the temperature, K negatives, and the noise uniform over the M samples of
    the data set. The paper prints Z = 1. The authors' code sets Z from its first batch (:func:`nce_log_normalizer`) and
    adds 1e-7 to the denominator; here h is a sigmoid, finite for any z. Their loss is the sum of this one with either
    network's embedding as the anchor.

    Args:
        positive: z of student and teacher embeddings of the same sample, ``(N,)``.
        negatives: z of embeddings of different samples, ``(N, K)``.
        n_data: M, the number of samples in the data set, or in the queue that the negatives are drawn from.
        log_normalizer: log Z; no gradient should flow to it.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 where the logits are.

    Raises:
        ValueError: The reduction is unknown, the shapes do not belong together, or ``n_data`` is below 1.

    Source: Tian et al., Contrastive Representation Distillation, ICLR 2020, eqs. 18 and 19.
    """
    check_reduction(reduction)
    if positive.ndim != 1 or negatives.ndim != 2 or len(positive) != len(negatives) or negatives.shape[1] < 1:
        raise ValueError(
            "there must be one positive (N,) and K negatives (N, K) a sample, got "
            f"{tuple(positive.shape)} and {tuple(negatives.shape)}"
        )
    if n_data < 1:
        raise ValueError(f"n_data must be 1 or more, got {n_data}")
    shift = log_normalizer + math.log(negatives.shape[1] / n_data)
    of_positive = F.softplus(shift - at_least_float32(positive))
    of_negatives = F.softplus(at_least_float32(negatives) - shift).sum(1)
    return reduce_losses(of_positive + of_negatives, reduction)


def nce_log_normalizer(logits: Tensor, *, n_data: int) -> Tensor:
    r"""An estimate of log Z, with which e^z / Z sums to 1 over the data set: :math:`\log(M \cdot \mathrm{mean}(e^z))`.

    Args:
        logits: z of some pairs, of any shape; the authors' code takes all of its first batch.
        n_data: M, the number of samples in the data set.

    Returns:
        A scalar without gradient; float32, or float64 where the logits are.

    Source: the code published with Tian et al., Contrastive Representation Distillation, ICLR 2020.
    """
    values = at_least_float32(logits.detach()).flatten()
    return torch.logsumexp(values, 0) + math.log(n_data / values.numel())
