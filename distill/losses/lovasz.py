"""Lovász-Softmax: the Jaccard index as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.losses.parts.logits import check_logits, check_two_classes
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses


def lovasz_loss(student: Tensor, target: Tensor, *, ignore_index: int = 255, reduction: Reduction = "mean") -> Tensor:
    r"""The Lovász extension of 1 - IoU at the errors of each sample's probabilities, a mean over its classes.

    .. math::
        \frac{1}{|\mathcal{C}|} \sum_{c \in \mathcal{C}} \sum_{j=1}^P m_{\pi_j}(c) \,
        \bigl(\Delta_c(\{\pi_1, \dots, \pi_j\}) - \Delta_c(\{\pi_1, \dots, \pi_{j-1}\})\bigr), \quad
        m_i(c) = |[y_i = c] - p_i(c)|

    over the classes C that the sample has, where pi sorts the errors m of its P positions in descending order, and
    Delta is 1 - IoU of the class where exactly those positions are wrong. With probabilities of 0 and 1 it is
    1 - IoU. The code published with the paper takes the IoU of a whole batch unless told otherwise; that of each sample
    does not depend on the other ones.

    Args:
        student: Logits, ``(N, C, *)``.
        target: Class indices ``(N, *)``.
        ignore_index: Positions with this target do not count.
        reduction: ``"none"``, ``"mean"`` over the samples with a position that counts (0 if none has), or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, in [0, 1], 0 where no position counts; else a scalar; float32, or float64 where the
        logits are.

    Raises:
        ValueError: The reduction is unknown, there is one class only, or the shapes do not belong together.

    Source: Berman et al., The Lovász-Softmax loss, CVPR 2018, eqs. 8, 9 and 11.
    """
    check_reduction(reduction)
    check_logits(student, student, target)
    check_two_classes(student)
    counted = target != ignore_index
    samples = [_of_sample(*sample) for sample in zip(student, target, counted, strict=True)]
    losses = torch.stack(samples) if samples else at_least_float32(student).new_zeros(0)
    return reduce_losses(losses, reduction, counted.unsqueeze(-1).flatten(1).any(1))


def _of_sample(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    target = target[counted]
    classes = target.unique()
    probabilities = at_least_float32(logits[:, counted]).softmax(0)  # (C, P)
    truth = (target == classes[:, None]).to(probabilities.dtype)
    errors, order = (truth - probabilities[classes]).abs().sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    size = truth.sum(1, keepdim=True)
    jaccard = 1 - (size - truth.cumsum(1)) / (size + (1 - truth).cumsum(1))
    steps = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(classes), 1))
    loss: Tensor = (errors * steps).sum() / max(1, len(classes))
    return loss
