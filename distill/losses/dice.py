"""Soft Dice: the overlap of predicted and true regions as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.checks import check_positive
from distill.losses.parts.logits import check_logits, check_two_classes, where_counted
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses


def dice_loss(
    student: Tensor, target: Tensor, *, smooth: float = 1.0, ignore_index: int = 255, reduction: Reduction = "mean"
) -> Tensor:
    r"""1 minus the soft Dice coefficient of each sample, a mean over its classes without the first, the background.

    .. math::
        1 - \frac{1}{C - 1} \sum_{c=1}^{C-1}
        \frac{2 \sum_i p_i(c) [y_i = c] + s}{\sum_i p_i(c) + \sum_i [y_i = c] + s}

    with the probabilities p of a softmax over the classes, and sums over the positions i that count. A class that a
    sample lacks has the loss 0 if it is predicted nowhere.

    Args:
        student: Logits, ``(N, C, *)``.
        target: Class indices ``(N, *)``.
        smooth: s, in positions. With 1, a class that the sample lacks still has a gradient; nnU-Net has 1e-5.
        ignore_index: Positions with this target do not count.
        reduction: ``"none"``, ``"mean"`` over the samples with a position that counts (0 if none has), or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, in [0, 1], 0 where no position counts; else a scalar; float32, or float64 where the
        logits are.

    Raises:
        ValueError: ``smooth`` is not positive, the reduction is unknown, there is one class only, or the shapes do not
            belong together.

    Source: Milletari et al., V-Net, 3DV 2016, Sec. 3, without the squares in its denominator, as in nnU-Net (Isensee
    et al., Nature Methods 2021).
    """
    check_positive(smooth=smooth)
    check_reduction(reduction)
    check_logits(student, student, target)
    check_two_classes(student)
    counted = target != ignore_index
    logits = where_counted(at_least_float32(student), counted).unsqueeze(-1).flatten(2)
    weights = counted.unsqueeze(-1).flatten(1).unsqueeze(1)
    probabilities = logits.softmax(1)[:, 1:] * weights
    classes = torch.arange(1, student.shape[1], device=target.device)
    truth = (target.unsqueeze(-1).flatten(1).unsqueeze(1) == classes[:, None]) & weights
    overlap = torch.where(truth, probabilities, 0).sum(2)
    dice = (2 * overlap + smooth) / (probabilities.sum(2) + truth.sum(2) + smooth)
    losses = 1 - dice.mean(1)
    return reduce_losses(losses, reduction, weights.any(2)[:, 0])
