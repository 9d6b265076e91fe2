"""Semantic calibration: each layer of the student learns from all layers of the teacher, weighted by attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.errors import UserError
from distill.losses.hint import hint_loss
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses


def semckd_loss(
    students: Sequence[Sequence[Tensor]],
    teachers: Sequence[Tensor],
    attention: Tensor,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The mean squared errors of all pairs of layers, weighted by attention.

    .. math::
        \frac{1}{A} \sum_{a=1}^{A} \sum_{b=1}^{B} \alpha_{a, b} \, \mathrm{MSE}(s_{a, b}, t_b)

    over A layers of the student and B of the teacher. The paper prints no 1 / A; the authors' code divides by A, and
    the weight of 400 belongs to that. Gradients flow to the attention, but not to the teacher's features.

    Args:
        students: The student's layer a, projected to the channels of the teacher's layer b: A times B tensors
            ``(N, C_b, *)``. If features differ in size or dims, they are brought to the same positions by
            :func:`~distill.losses.parts.pooling.to_common_size`.
        teachers: The teacher's B layers, ``(N, C_b, *)``.
        attention: alpha, ``(N, A, B)``, with sum 1 over the teacher's layers.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the features are float64.

    Raises:
        ValueError: The reduction is unknown, or the shapes do not belong together.

    Source: Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021.
    """
    check_reduction(reduction)
    expected = (len(teachers[0]), len(students), len(teachers))
    if attention.shape != expected or any(len(layer) != len(teachers) for layer in students):
        raise UserError(
            f"attention must have shape (samples, student layers, teacher layers) = {expected}, and every layer of the "
            f"student one projection for each of the teacher's, got {tuple(attention.shape)} and "
            f"{[len(layer) for layer in students]}"
        )
    errors = [
        hint_loss(student, teacher, reduction="none")
        for layer in students
        for student, teacher in zip(layer, teachers, strict=True)
    ]
    weighted = at_least_float32(attention).flatten(1) * torch.stack(errors, 1)
    return reduce_losses(weighted.sum(1) / len(students), reduction)
