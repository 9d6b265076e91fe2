"""Knowledge distillation on logits of independent labels."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from distill.checks import check_option
from distill.errors import UserError
from distill.losses.kd import kd_loss
from distill.losses.parts.logits import check_logits
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses

OverLabels = Literal["none", "mean", "sum"]


def binary_kd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    known: Tensor | None = None,
    over_labels: OverLabels = "sum",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The KL divergences from the student's softened labels to the teacher's, one versus all, in nats times T^2.

    .. math::
        T^2 \sum_{c=1}^C \left[ p_c^T \log \frac{p_c^T}{p_c^S} + (1 - p_c^T) \log \frac{1 - p_c^T}{1 - p_c^S} \right],
        \quad p_c = \mathrm{sigmoid}(z_c / T)

    Each label has a Bernoulli distribution of its own. With one label this is :func:`~distill.losses.kd_loss` of the
    two logits z and 0. T^2 keeps the gradient's size when the temperature T changes. The teacher is a constant: no
    gradient flows to it.

    Args:
        student: The student's logits z, ``(N, C, *)``.
        teacher: The teacher's logits, of the same shape.
        temperature: T, above 0; higher is softer.
        known: True where a label counts, ``(N, C, *)``; by default all count. The others are 0.
        over_labels: The ``"sum"`` over the labels, as in the paper, which has no T; their ``"mean"``, which is the size
            of a binary cross entropy that is averaged over the labels; or ``"none"``.
        reduction: ``"none"``, ``"mean"``, or ``"sum"``. The mean of sums is over the positions with a label that
            counts. The mean of means and of single labels is over all labels that count. It is 0 if none counts.

    Returns:
        ``(N, *)`` for the reduction ``"none"``, or ``(N, C, *)`` with ``over_labels="none"``; else a scalar. It is
        float32, or float64 if the logits are float64.

    Raises:
        ValueError: The temperature is not positive, an option is unknown, or the shapes do not belong together.

    Source: Yang et al., Multi-Label Knowledge Distillation, ICCV 2023, multi-label logits distillation.
    """
    check_option("over_labels", over_labels, get_args(OverLabels))
    check_reduction(reduction)
    check_logits(student, teacher)
    if known is not None and known.shape != student.shape:
        raise UserError(f"known must have the shape of the logits, {tuple(student.shape)}, got {tuple(known.shape)}")
    # softmax over z and 0 is the sigmoid of z
    pairs = (torch.stack([logits, torch.zeros_like(logits)], 1) for logits in (student, teacher))
    labels = None if known is None else known.long()
    losses = kd_loss(*pairs, temperature=temperature, target=labels, ignore_index=0, reduction="none")
    counted = torch.ones_like(losses, dtype=torch.bool) if known is None else known.bool()
    if over_labels == "none" or (over_labels == "mean" and reduction == "mean"):
        return reduce_losses(losses, reduction, counted)
    sums = losses.sum(1)
    if over_labels == "sum":
        return reduce_losses(sums, reduction, counted.any(1))
    return reduce_losses(sums / counted.sum(1).clamp(min=1), reduction)
