"""Knowledge distillation on logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_positive
from distill.losses.parts.logits import check_logits, check_two_classes, kl_divergence, softened, where_counted
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.recompute import in_chunks
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The KL divergence from the student's softened prediction to the teacher's, in nats times T^2.

    .. math::
        T^2 \sum_{i=1}^C p_i^T \log(p_i^T / p_i^S), \quad p = \mathrm{softmax}(z / T)

    T^2 keeps the gradient's size when the temperature T changes. The teacher is a constant: no gradient flows to it.

    Args:
        student: The student's logits z, ``(N, C, *)``.
        teacher: The teacher's logits, of the same shape.
        temperature: T, above 0; higher is softer.
        target: Class indices ``(N, *)``, read only to leave out the positions that are ``ignore_index``.
        ignore_index: Positions with this target are 0 and do not count in the mean.
        reduction: ``"none"``, ``"mean"`` over the positions that count (0 if none does), or ``"sum"``.

    Returns:
        ``(N, *)`` for ``"none"``, else a scalar; float32, or float64 if the logits are float64.

    Raises:
        ValueError: The temperature is not positive, the reduction is unknown, the shapes do not belong together, or
            there is one class only, whose probability is always 1.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
    """
    check_positive(temperature=temperature)
    check_reduction(reduction)
    check_logits(student, teacher, target)
    check_two_classes(student)

    def divergence(student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
        student = at_least_float32(student)
        if counted is not None:
            student = where_counted(student, counted)
        log_q, log_p = (F.log_softmax(softened(logits, temperature), 1) for logits in (student, teacher))
        return kl_divergence(log_q, log_p).to(student.dtype)

    if target is None:
        return reduce_losses(temperature**2 * in_chunks(divergence, student, teacher.detach()), reduction)
    counted = target != ignore_index
    losses = temperature**2 * in_chunks(divergence, student, teacher.detach(), counted)
    return reduce_losses(torch.where(counted, losses, 0), reduction, counted)
