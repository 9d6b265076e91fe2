"""Dimensional structure: how the dimensions of an output correlate, and how features lie in their space."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.pairwise import by_rows, rows, squared_distances
from distill.losses.parts.precision import without_autocast
from distill.losses.parts.unit import unit_vectors

Cross = Literal["printed", "align"]


@without_autocast
def cross_correlation(student_z: Tensor, teacher_z: Tensor, *, center: bool = True) -> Tensor:
    r"""The correlation of every dimension of the student's embedding with every one of the teacher's, in [-1, 1].

    .. math::
        C_{ij} = \frac{\sum_b z^S_{b, i} z^T_{b, j}}{\sqrt{\sum_b (z^S_{b, i})^2} \sqrt{\sum_b (z^T_{b, j})^2}}

    Eq. 6 does not centre z; then an offset reads as correlation. ``center=True`` takes the mean over the batch from
    every dimension first, as Barlow Twins does, whose objective eq. 7 is. A dimension that is the same in all samples
    correlates with none: 0. Gradients flow to both sides.

    Args:
        student_z: Projected embeddings of the samples, ``(N, D)``, of all processes under DDP.
        teacher_z: The teacher's of the same samples, ``(N, E)``.
        center: Whether to centre; False is eq. 6 as printed.

    Returns:
        ``(D, E)``; float32, or float64 where the embeddings are.

    Raises:
        ValueError: The numbers of samples differ.

    Source: Si et al., DS, eq. 6; Zbontar et al., Barlow Twins, ICML 2021, eq. 2.
    """
    ours, theirs = (_centred(z) if center else z for z in rows(student_z, teacher_z))
    return unit_vectors(ours, 0).mT @ unit_vectors(theirs, 0)


def sem_terms(student_z: Tensor, teacher_z: Tensor, *, center: bool = True) -> tuple[Tensor, Tensor]:
    r"""The two parts of :func:`sem_loss`: what aligns equal dimensions, and what sets different ones apart.

    .. math::
        \sum_i (1 - C_{ii})^2, \quad \sum_i \sum_{j \ne i} C_{ij}^2

    Args:
        student_z: Projected embeddings of the samples, ``(N, D)``, of all processes under DDP.
        teacher_z: The teacher's of the same samples, ``(N, D)``.
        center: As in :func:`cross_correlation`.

    Returns:
        ``(on_diagonal, off_diagonal)``, scalars, the second without its weight lambda.

    Raises:
        ValueError: The numbers of samples or of dimensions differ.

    Source: Si et al., DS, eq. 7.
    """
    correlation = cross_correlation(student_z, teacher_z, center=center)
    if correlation.shape[0] != correlation.shape[1]:
        raise UserError(
            "the embeddings of student and teacher must have the same number of dimensions, got "
            f"{tuple(student_z.shape)} and {tuple(teacher_z.shape)}"
        )
    diagonal = correlation.diagonal()
    return (1 - diagonal).square().sum(), (correlation - torch.diag(diagonal)).square().sum()


def sem_loss(student_z: Tensor, teacher_z: Tensor, *, lambda_: float = 0.005, center: bool = True) -> Tensor:
    r"""Semantic enhancement: how far the cross-correlation is from the identity.

    .. math::
        \sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \ne i} C_{ij}^2

    Sums, as printed, so that it grows with the number of dimensions.

    Args:
        student_z: Projected embeddings of the samples, ``(N, D)``, of all processes under DDP.
        teacher_z: The teacher's of the same samples, ``(N, D)``.
        lambda_: The weight of the different dimensions; 0.005 in Barlow Twins.
        center: As in :func:`cross_correlation`.

    Returns:
        A scalar; float32, or float64 where the embeddings are.

    Raises:
        ValueError: The numbers of samples or of dimensions differ.

    Source: Si et al., DS, eqs. 6 and 7.
    """
    on_diagonal, off_diagonal = sem_terms(student_z, teacher_z, center=center)
    return on_diagonal + lambda_ * off_diagonal


def rbf_log_mean(a: Tensor, b: Tensor, *, sigma: float) -> Tensor:
    r"""The logarithm of the mean of a radial basis function over all pairs of samples, 0 or less.

    .. math::
        \log \frac{1}{N M} \sum_{i=1}^N \sum_{j=1}^M \exp \left( -\lVert a_i - b_j \rVert^2 / \sigma^2 \right)

    Pairs of a sample with itself count, as printed. It is finite at any distance. Gradients flow to both sides. Where
    there are more than four pairs for every number in the features, a few rows of them are made at a time.

    Args:
        a: Features of N samples, ``(N, *)``, of all processes under DDP.
        b: Features of M samples, ``(M, *)``, with as many numbers a sample.
        sigma: The kernel's width, above 0.

    Returns:
        A scalar; float32, or float64 where the features are.

    Raises:
        ValueError: Sigma is not positive, or the features have different numbers of dimensions.

    Source: Si et al., DS, eqs. 8, 9 and 11.
    """
    _check_sigma(sigma)
    ours, _ = rows(a, a)
    theirs, _ = rows(b, b)
    _check_width(ours, theirs)

    def of_rows(few: Tensor, others: Tensor) -> Tensor:
        return torch.logsumexp(-squared_distances(few, others) / sigma**2, 1)

    pairs, numel = len(ours) * len(theirs), max(ours.numel(), theirs.numel())
    at_most = pairs if pairs <= 4 * numel else numel // 2
    sums = by_rows(of_rows, ours, shared=(theirs,), numbers=len(theirs), at_most=at_most)
    return torch.logsumexp(sums, 0) - math.log(len(ours) * len(theirs))


def dcm_terms(
    student: Tensor, teacher: Tensor, *, sigma: float, normalize: bool = True, cross: Cross = "printed"
) -> tuple[Tensor, Tensor]:
    r"""The two parts of :func:`dcm_loss`: the student's features among themselves, and against the teacher's.

    Args:
        student: Features of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's of the same samples, ``(N, *)``, with as many numbers a sample.
        sigma: The kernel's width, above 0.
        normalize: As in :func:`dcm_loss`.
        cross: As in :func:`dcm_loss`.

    Returns:
        ``(own, cross)``, scalars.

    Raises:
        ValueError: Sigma is not positive, ``cross`` is unknown, or the shapes do not belong together.

    Source: Si et al., DS, eq. 10.
    """
    _check_sigma(sigma)
    if cross not in get_args(Cross):
        raise UserError(f"cross must be printed or align, got {cross!r}")
    ours, theirs = rows(student, teacher.detach())
    _check_width(ours, theirs)
    if normalize:
        ours, theirs = unit_vectors(ours), unit_vectors(theirs)
    own = rbf_log_mean(ours, ours, sigma=sigma)
    if cross == "align":
        return own, (ours - theirs).square().sum(1).mean()
    return own, rbf_log_mean(ours, theirs, sigma=sigma)


def dcm_loss(
    student: Tensor, teacher: Tensor, *, sigma: float, normalize: bool = True, cross: Cross = "printed"
) -> Tensor:
    r"""Distribution calibration: the student's features away from each other, and from or to the teacher's.

    .. math::
        L_{DM}(t^S, t^S) + L_{DM}(t^S, t^T)

    with :math:`L_{DM}` as in :func:`rbf_log_mean`. Both terms fall as points move apart, although the text says that
    the second draws student and teacher together: without bounds the features grow for ever. So each sample's features,
    as one vector, are divided by their length first, as by Wang and Isola, whom the paper follows. ``cross="align"``
    puts in place of the second term what the text describes, their alignment: the mean of
    :math:`\lVert t^S_i - t^T_i \rVert^2`. The teacher is a constant: no gradient flows to it.

    Args:
        student: Features of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's of the same samples, ``(N, *)``, with as many numbers a sample.
        sigma: The kernel's width, above 0; between features of length 1 distances are at most 2.
        normalize: Whether to divide by the length; False is eq. 11 as printed.
        cross: ``printed`` or ``align``.

    Returns:
        A scalar; float32, or float64 where the features are.

    Raises:
        ValueError: Sigma is not positive, ``cross`` is unknown, or the shapes do not belong together.

    Source: Si et al., DS, eqs. 8-11; Wang and Isola, Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere, ICML 2020.
    """
    own, across = dcm_terms(student, teacher, sigma=sigma, normalize=normalize, cross=cross)
    return own + across


def _centred(z: Tensor) -> Tensor:
    """Minus the mean over samples; a dimension that is constant but for rounding is exactly 0."""
    centred = z - z.mean(0)
    rounding = 4 * torch.finfo(z.dtype).eps * torch.linalg.vector_norm(z.detach(), dim=0)
    varies = torch.linalg.vector_norm(centred.detach(), dim=0) > rounding
    return torch.where(varies, centred, 0)


def _check_sigma(sigma: float) -> None:
    if not sigma > 0:
        raise UserError(f"sigma must be positive, got {sigma}")


def _check_width(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape[1] != theirs.shape[1]:
        raise UserError(
            f"the features must have the same number of dimensions a sample, got {ours.shape[1]} and {theirs.shape[1]}"
        )
