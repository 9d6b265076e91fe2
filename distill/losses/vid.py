"""Variational information distillation: the likelihood of the teacher's features given the student's."""

from __future__ import annotations

from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_means


def vid_loss(predicted_mean: Tensor, teacher: Tensor, variance: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""The negative log-likelihood of the teacher's features under a Gaussian, in nats per value, up to a constant.

    .. math::
        \frac{1}{C L} \sum_{c, i} \frac{1}{2} \left( \frac{(\mu_{c, i} - t_{c, i})^2}{\sigma_c^2}
            + \log \sigma_c^2 \right)

    It can be negative. The paper sums over the values; published code takes the mean and leaves out the constant
    :math:`\log(2 \pi) / 2`, as here. The teacher is a constant: no gradient flows to it.

    Args:
        predicted_mean: mu, the regressor's output on the student's features, ``(N, C, *)``.
        teacher: t, the teacher's features, of the same shape.
        variance: sigma^2 of each channel, ``(C,)``, above 0; a softplus of a trained scale in the paper.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the features are float64.

    Raises:
        ValueError: The reduction is unknown, or the shapes do not belong together.

    Source: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019, Sec. 2.
    """
    check_reduction(reduction)
    if predicted_mean.shape != teacher.shape or teacher.ndim < 2:
        raise UserError(
            "the predicted mean must have the shape of the teacher's features (N, C, *), got "
            f"{tuple(predicted_mean.shape)} and {tuple(teacher.shape)}"
        )
    if variance.shape != teacher.shape[1:2]:
        raise UserError(
            f"there must be one variance a channel, ({teacher.shape[1]},), got shape {tuple(variance.shape)}"
        )
    mean, features = at_least_float32(predicted_mean), at_least_float32(teacher.detach())
    spread = at_least_float32(variance).view(-1, *[1] * (teacher.ndim - 2))
    losses = ((mean - features).square() / spread + spread.log()) / 2
    return reduce_means(losses, reduction)
