"""Adaptively-recalibrated feature distillation: features on one scale, and their consistency."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_option
from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32

Kernel = Literal["laplace", "laplace_l1", "gaussian", "linear", "none"]
Centering = Literal["hsic", "printed"]
Measure = Literal["cka", "cka_printed", "euclidean", "cosine", "pearson"]

# positions of a map that are centred at a time: a copy of 8 MiB at 512 channels, long enough for a fast product
POSITIONS = 4096

LEAST_VARIANCE = 1e-30
"""Features that vary less count as constant: in float32 the gradient would overflow."""


def recalibrate(features: Tensor, *, kernel: Kernel = "laplace") -> Tensor:
    r"""The features under a kernel around their mean, which removes their scale and offset.

    With f-bar the mean over all channels and positions of one sample (eq. 15), and :math:`\sigma^2` the mean of
    :math:`(f - \bar f)^2` over the same channels and positions,

    ============== ==================================================== =======
    ``laplace``    :math:`\exp(-(f - \bar f)^2 / \sigma^2)`             eq. 14
    ``laplace_l1`` :math:`\exp(-\lvert f - \bar f \rvert / \sigma)`     -
    ``gaussian``   :math:`\exp(-(f - \bar f)^2 / (2 \sigma^2))`         eq. 17
    ``linear``     :math:`f - \bar f`                                   eq. 16
    ``none``       :math:`f`                                            -
    ============== ==================================================== =======

    Eq. 14 is called a Laplace kernel but squares the difference, and does not define its sigma; here sigma is that of
    eq. 17. ``laplace_l1`` is the kernel that is usually called Laplace.

    Args:
        features: ``(N, C, *)``.
        kernel: One of the above.

    Returns:
        The same shape; float32, or float64 if the features are float64. Constant features become 1 under an
        exponential kernel.

    Raises:
        ValueError: The kernel is unknown.

    Source: Guo et al., LIX, eqs. 14-17.
    """
    check_option("kernel", kernel, get_args(Kernel))
    features = at_least_float32(features)
    if kernel == "none":
        return features
    dims = tuple(range(1, features.ndim))
    mean = features.mean(dims, keepdim=True)
    if kernel == "linear":
        return features - mean
    squares = F.mse_loss(features, mean.expand_as(features), reduction="none")
    variance = squares.mean(dims, keepdim=True).clamp(min=LEAST_VARIANCE)
    if kernel == "laplace_l1":
        return ((features - mean).abs() / -variance.sqrt()).exp()
    return (squares / (-variance if kernel == "laplace" else -2 * variance)).exp()


def cka(student: Tensor, teacher: Tensor, *, centering: Centering = "hsic", teacher_gradient: bool = False) -> Tensor:
    r"""The centered kernel alignment of two feature maps, in [0, 1]: the similarity of the relations of their channels.

    With the Gram matrices :math:`S = F^S F^{S \top}` and :math:`T = F^T F^{T \top}` of the channels, C x C, and the
    centering matrix :math:`H = I - \mathbf{1} \mathbf{1}^\top / C`,

    .. math::
        \mathrm{CKA} = \frac{\mathrm{HSIC}(S, T)}{\sqrt{\mathrm{HSIC}(S, S) \, \mathrm{HSIC}(T, T)}}, \quad
        \mathrm{HSIC}(S, T) \propto \mathrm{tr}(S H T H) = \mathrm{tr}(S T)
            + \frac{\mathbf{1}^\top S \mathbf{1} \mathbf{1}^\top T \mathbf{1}}{C^2}
            - \frac{2}{C} \mathbf{1}^\top S T \mathbf{1}

    It is 1 for features that are equal up to a scale, an orthogonal transform of the positions, and an offset common to
    all channels. It is 0 if all channels of a map are equal. Eq. 18 prints :math:`2 / C^2` for the last factor. Then
    all features with a mean other than 0 have a CKA near 1, and an exponential kernel always makes such features.
    ``centering="printed"`` is that formula, for comparison; it can exceed 1.

    Beside its inputs and their gradients it needs C x C numbers for each sample, and a strip of one map.

    Args:
        student: Feature maps, ``(N, C, *)``; the channels are compared.
        teacher: ``(N, C, *)`` with the same N and C, and any number of positions.
        centering: ``hsic``, or eq. 18 letter by letter as ``printed``.
        teacher_gradient: Whether gradients flow to the teacher's maps too: True if a module that makes them is trained,
            as the paper's convolution. By default the teacher is a constant.

    Returns:
        ``(N,)``; float32, or float64 if the features are float64.

    Raises:
        ValueError: N or C differ, there is one channel only, or the centering is unknown.

    Source: Guo et al., LIX, eqs. 18 and 19; Kornblith et al., Similarity of Neural Network Representations Revisited,
    ICML 2019, eqs. 3 and 4.
    """
    if student.ndim < 2 or student.shape[:2] != teacher.shape[:2] or student.shape[1] < 2:
        raise UserError(
            "student and teacher must have the same number of samples and channels, (N, C, *) with C at least 2, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    check_option("centering", centering, get_args(Centering))
    teacher = teacher if teacher_gradient else teacher.detach()
    maps = [at_least_float32(features).unsqueeze(-1).flatten(2) for features in (student, teacher)]
    if centering == "printed":
        return _printed_cka(*(features @ features.mT for features in maps))
    grams = [F.normalize(_CenteredGram.apply(features).flatten(1), dim=1) for features in maps]
    # rounding may take the product of two equal unit vectors a little above 1
    return (grams[0] * grams[1]).sum(1).clamp(max=1)


def consistency_loss(
    student: Tensor, teacher: Tensor, *, measure: Measure = "cka", teacher_gradient: bool = False
) -> Tensor:
    r"""The inconsistency of two feature maps of each sample, 0 if they are equal.

    - ``cka``: 1 - CKA (eq. 20); ``cka_printed`` with eq. 18 as printed;
    - ``euclidean``: the distance of the two maps, divided by :math:`\sqrt{C L}` so that it does not grow with the map;
    - ``cosine``: 1 - the cosine of the angle between the two maps as vectors, 0 to 2;
    - ``pearson``: 1 - their correlation, 0 to 2.

    Args:
        student: Feature maps, ``(N, C, *)``.
        teacher: The teacher's maps, of the same shape; with CKA the positions may differ.
        measure: One of the above.
        teacher_gradient: As in :func:`cka`.

    Returns:
        ``(N,)``; float32, or float64 if the features are float64.

    Raises:
        ValueError: The measure is unknown, or the shapes do not belong together.

    Source: Guo et al., LIX, eq. 20 and Fig. 3d. The figure names the measures other than CKA without equations.
    """
    check_option("measure", measure, get_args(Measure))
    teacher = teacher if teacher_gradient else teacher.detach()
    if measure in ("cka", "cka_printed"):
        centering: Centering = "hsic" if measure == "cka" else "printed"
        return 1 - cka(student, teacher, centering=centering, teacher_gradient=teacher_gradient)
    if student.shape != teacher.shape:
        raise UserError(
            f"student and teacher must have the same shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    student, teacher = at_least_float32(student).flatten(1), at_least_float32(teacher).flatten(1)
    if measure == "euclidean":
        distance: Tensor = torch.linalg.vector_norm(student - teacher, dim=1)
        return distance / math.sqrt(student.shape[1])
    if measure == "pearson":
        student, teacher = student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    return 1 - F.cosine_similarity(student, teacher, dim=1)


class _CenteredGram(torch.autograd.Function):
    """H F F' H of maps ``(N, C, L)``, ``(N, C, C)``. It saves the maps only and centres one strip of them at a time.

    Centring F before the product, and not F F' after it, loses no digits if features lie far from 0.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        samples, channels, _ = features.shape
        gram = features.new_zeros(samples, channels, channels)
        for strip in features.split(POSITIONS, dim=2):
            centred = strip - strip.mean(1, keepdim=True)
            gram.baddbmm_(centred, centred.mT)
        return gram

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        symmetric = gradient + gradient.mT
        centred = symmetric - symmetric.mean(1, keepdim=True)
        result: Tensor = (centred - centred.mean(2, keepdim=True)) @ features
        return result


def _printed_cka(student: Tensor, teacher: Tensor) -> Tensor:
    def hsic(first: Tensor, second: Tensor) -> Tensor:
        squared = first.shape[1] ** 2
        trace = (first * second).sum((1, 2))
        sums = first.sum((1, 2)) * second.sum((1, 2))
        crossed = (first.sum(1) * second.sum(2)).sum(1)
        return trace + sums / squared - 2 / squared * crossed

    product = hsic(student, student) * hsic(teacher, teacher)
    printed: Tensor = hsic(student, teacher) / product.clamp(min=torch.finfo(product.dtype).tiny).sqrt()
    return printed
