"""Losses between depth maps in metres: the scale-invariant logarithmic error and structural similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_positive, check_share
from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses

NEAREST = 1e-3
"""The smallest depth of a student, in metres; smaller ones count as this one and have no gradient."""


def silog_loss(
    student: Tensor, target: Tensor, *, variance_focus: float = 0.85, reduction: Reduction = "mean"
) -> Tensor:
    r"""The scale-invariant error of the logarithm of depth, for each image.

    .. math::
        \sqrt{\frac{1}{n} \sum_i g_i^2 - \frac{\lambda}{n^2} \Big( \sum_i g_i \Big)^2}, \quad
        g_i = \log d_i - \log d_i^*

    over the n pixels of an image that have a target. Eigen et al. print it without the root and train with
    :math:`\lambda = 0.5`. BTS takes ten times the root with :math:`\lambda = 0.85`, over the pixels of a whole batch.

    Args:
        student: Depth d in metres, ``(N, 1, H, W)``; values below 1 mm count as 1 mm.
        target: Depth d* of the same shape; pixels with 0 or less have no target and do not count.
        variance_focus: lambda. 0 gives the root mean square of g, 1 its standard deviation, which does not depend on
            the scale of the depth.
        reduction: ``"none"``, ``"mean"`` over the images that have a target (0 if none has), or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, 0 for an image without targets, else a scalar; float32, or float64 if the student is
        float64.

    Raises:
        ValueError: The shapes differ or are of another form, lambda is outside [0, 1], or the reduction is unknown.

    Source: Eigen et al., Depth Map Prediction from a Single Image using a Multi-Scale Deep Network, NeurIPS 2014,
    eqs. 3 and 4; Lee et al., From Big to Small (BTS), 2019, eq. 6.
    """
    check_reduction(reduction)
    _check_maps(student, target, "target")
    check_share(variance_focus=variance_focus)
    student, target = at_least_float32(student).flatten(1), at_least_float32(target).detach().flatten(1)
    valid = ~(target <= 0)  # NaN counts, so that it is not hidden
    pixels = valid.sum(1).clamp(min=1).to(student.dtype)
    # without a target both depths are equal, so that the pixel has no gradient
    depth = torch.where(valid & ~(student < NEAREST), student, NEAREST)
    error = depth.log() - torch.where(valid, target, NEAREST).log()
    mean = error.sum(1) / pixels
    centred = torch.where(valid, error - mean.unsqueeze(1), 0)
    # the variance and the rest of the squared mean do not cancel; at 0 vector_norm has gradient 0, a root has none
    deviation = torch.linalg.vector_norm(centred, dim=1) / pixels.sqrt()
    losses = torch.linalg.vector_norm(torch.stack([deviation, (1 - variance_focus) ** 0.5 * mean]), dim=0)
    return reduce_losses(losses, reduction, valid.any(1))


def ssim_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    data_range: float = 80.0,
    window: int = 11,
    sigma: float = 1.5,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus the structural similarity of two depth maps around each pixel: 0 if they are equal, at most 2.

    .. math::
        1 - \frac{(2 \mu_S \mu_T + C_1) (2 \sigma_{ST} + C_2)}
            {(\mu_S^2 + \mu_T^2 + C_1) (\sigma_S^2 + \sigma_T^2 + C_2)}, \quad C_k = (K_k \cdot \mathrm{data\_range})^2

    with means, variances and covariance under a Gaussian window, :math:`K_1 = 0.01` and :math:`K_2 = 0.03`. Pixels
    without a response count in no window: the weights of the other pixels are scaled to sum to 1, also at the borders
    of the image. The covariance keeps its sign, so that opposite structure costs more than no structure.

    torchmetrics' ``structural_similarity_index_measure`` has the same value away from borders. It is not used here: it
    takes no mask, reflects the image at its borders, and subtracts squares of nearly equal size, so that in float32 the
    loss of nearly equal maps is rounding error. Here the moments of sum and difference are used, which give exactly 0
    for equal maps. The window is applied along one axis after the other.

    Args:
        student: Depth in metres, ``(N, 1, H, W)``.
        teacher: The teacher's, of the same shape; pixels with 0 or less, no response, do not count. No gradient flows
            to it.
        data_range: The range of depths in the constants, in metres; 1 gives the constants of TIE-KD's released code.
        window: The width of the window in pixels, odd.
        sigma: The standard deviation of the window in pixels.
        reduction: ``"none"``, ``"mean"`` over the pixels that count (0 if none does), or ``"sum"``.

    Returns:
        ``(N, H, W)`` for ``"none"``, 0 without a response, else a scalar; float32, or float64 if the student is
        float64.

    Raises:
        ValueError: The shapes differ or are of another form, the window is not odd, the range or sigma is not
            positive, or the reduction is unknown.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE TIP 2004,
    eq. 13; Choi et al., TIE-KD, 2024, eq. 6.
    """
    check_reduction(reduction)
    _check_maps(student, teacher, "teacher")
    if window < 1 or window % 2 == 0:
        raise UserError(f"window must be an odd number of pixels, got {window}")
    check_positive(data_range=data_range, sigma=sigma)
    student = at_least_float32(student)
    valid = ~(teacher <= 0)  # NaN counts, so that it is not hidden
    teacher = torch.where(valid, teacher.detach().to(student.dtype), 0)
    student = torch.where(valid, student, 0)
    total, difference = student + teacher, student - teacher
    fields = torch.cat([valid.to(student.dtype), total, difference, total.square(), difference.square()], 1)
    weight, *sums = _blurred(fields, window, sigma).unbind(1)
    counted = valid.squeeze(1)
    weight = torch.where(counted, weight, 1)
    total_mean, difference_mean, total_square, difference_square = (field / weight for field in sums)
    # the moments of both maps follow from those of their sum and difference
    luminance = _dissimilarity(total_mean.square(), difference_mean.square(), (0.01 * data_range) ** 2)
    structure = _dissimilarity(
        (total_square - total_mean.square()).clamp(min=0),
        (difference_square - difference_mean.square()).clamp(min=0),
        (0.03 * data_range) ** 2,
    )
    losses = torch.where(counted, luminance + structure - luminance * structure, 0)
    return reduce_losses(losses, reduction, counted)


def _dissimilarity(of_sum: Tensor, of_difference: Tensor, constant: float) -> Tensor:
    """One minus a factor of SSIM: (2 a b + C) / (a^2 + b^2 + C) from (a + b)^2 and (a - b)^2."""
    return 2 * of_difference / (of_sum + of_difference + 2 * constant)


def _blurred(maps: Tensor, window: int, sigma: float) -> Tensor:
    """Maps ``(N, F, H, W)`` under a Gaussian window that sums to 1, with zeros around them."""
    offsets = torch.arange(window, dtype=maps.dtype, device=maps.device) - window // 2
    kernel = (-0.5 * (offsets / sigma) ** 2).softmax(0)
    if len(maps) == 0:  # a convolution cannot have 0 groups
        return maps
    # on CPUs, one sample with many channels takes a tenth of the time of many samples with one channel
    channels = maps.flatten(0, 1).unsqueeze(0)
    count = channels.shape[1]
    down, across = (kernel.view(shape).expand(count, -1, -1, -1) for shape in ((1, 1, -1, 1), (1, 1, 1, -1)))
    blurred = F.conv2d(channels, down, padding=(window // 2, 0), groups=count)
    return F.conv2d(blurred, across, padding=(0, window // 2), groups=count).view_as(maps)


def _check_maps(student: Tensor, other: Tensor, name: str) -> None:
    if student.shape != other.shape or student.ndim != 4 or student.shape[1] != 1:
        raise UserError(
            f"student and {name} must have the same shape (N, 1, H, W), got {tuple(student.shape)} and "
            f"{tuple(other.shape)}"
        )
