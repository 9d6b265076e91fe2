"""Channel-wise distillation: the positions at which each channel is active."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_positive
from distill.errors import UserError
from distill.losses.parts.logits import kl_divergence, softened
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.recompute import in_chunks
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses


def cwd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""The KL divergence over the positions of each channel, in nats times T^2.

    .. math::
        \frac{T^2}{C} \sum_{c=1}^C \sum_{i=1}^L \phi(y^T_{c, i}) \log \frac{\phi(y^T_{c, i})}{\phi(y^S_{c, i})},
        \quad \phi(y_{c, i}) = \frac{\exp(y_{c, i} / T)}{\sum_{j=1}^L \exp(y_{c, j} / T)}

    The softmax goes over the L positions of a channel, also positions without a label. The teacher is a constant: no
    gradient flows to it.

    Args:
        student: Logits or features, ``(N, C, *)``, with at least one dim of positions.
        teacher: The teacher's, of the same shape.
        temperature: T, above 0; a higher one spreads the weight over more positions.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, which divides the sum by N C, or
            ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the inputs are float64.

    Raises:
        ValueError: The temperature is not positive, the reduction is unknown, the shapes differ, or there
            are no positions.

    Source: Shu et al., Channel-Wise Knowledge Distillation for Dense Prediction, ICCV 2021, eqs. 4 and 5.
    """
    check_positive(temperature=temperature)
    check_reduction(reduction)
    if student.shape != teacher.shape or student.ndim < 3 or student.shape[2:].numel() == 1:
        raise UserError(
            "student and teacher must have the same shape (N, C, *) with positions after the channels, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )

    def divergence(student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = (F.log_softmax(softened(x.flatten(2), temperature), 2) for x in (student, teacher))
        return kl_divergence(log_q, log_p, dim=2).mean(1).to(at_least_float32(student).dtype)

    return reduce_losses(temperature**2 * in_chunks(divergence, student, teacher.detach()), reduction)
