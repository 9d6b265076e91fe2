"""Dimensional structure: the correlation of the dimensions of an output, and the spread of features."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from distill.checks import check_option, check_positive
from distill.errors import UserError
from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pairwise import rows, squared_distances
from distill.losses.parts.precision import without_autocast
from distill.losses.parts.recompute import in_chunks

Cross = Literal["printed", "align"]


@without_autocast
def cross_correlation(
    student_z: Tensor, teacher_z: Tensor, *, center: bool = True, teacher_gradient: bool = False
) -> Tensor:
    r"""The correlation of each dimension of the student's embedding with each of the teacher's, in [-1, 1].

    .. math::
        C_{ij} = \frac{\sum_b z^S_{b, i} z^T_{b, j}}{\sqrt{\sum_b (z^S_{b, i})^2} \sqrt{\sum_b (z^T_{b, j})^2}}

    Eq. 6 does not centre z, so an offset counts as correlation. ``center=True`` first subtracts the mean over the batch
    from each dimension, as Barlow Twins does, whose objective is eq. 7. A dimension that is constant over the samples
    has correlation 0.

    Args:
        student_z: Projected embeddings of the samples, ``(N, D)``, of all processes under DDP.
        teacher_z: The teacher's embeddings of the same samples, ``(N, E)``.
        center: Whether to centre; False is eq. 6 as printed.
        teacher_gradient: Whether gradients flow to the teacher's embeddings too: True if their projector is trained. By
            default the teacher is a constant.

    Returns:
        ``(D, E)``; float32, or float64 if the embeddings are float64.

    Raises:
        ValueError: The numbers of samples differ.

    Source: Si et al., DS, eq. 6; Zbontar et al., Barlow Twins, ICML 2021, eq. 2.
    """
    both = rows(student_z, teacher_z if teacher_gradient else teacher_z.detach())
    columns = [unit_vectors(_centred(z) if center else z, 0) for z in both]
    return columns[0].mT @ columns[1]


def sem_terms(
    student_z: Tensor, teacher_z: Tensor, *, center: bool = True, teacher_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    r"""The two parts of :func:`sem_loss`: one aligns equal dimensions, one decorrelates different dimensions.

    .. math::
        \sum_i (1 - C_{ii})^2, \quad \sum_i \sum_{j \ne i} C_{ij}^2

    Args:
        student_z: Projected embeddings of the samples, ``(N, D)``, of all processes under DDP.
        teacher_z: The teacher's embeddings of the same samples, ``(N, D)``.
        center: As in :func:`cross_correlation`.
        teacher_gradient: As in :func:`cross_correlation`.

    Returns:
        ``(on_diagonal, off_diagonal)``, scalars, the second without its weight lambda; 0 without samples.

    Raises:
        ValueError: The numbers of samples or of dimensions differ.

    Source: Si et al., DS, eq. 7.
    """
    correlation = cross_correlation(student_z, teacher_z, center=center, teacher_gradient=teacher_gradient)
    if correlation.shape[0] != correlation.shape[1]:
        raise UserError(
            "the embeddings of student and teacher must have the same number of dimensions, got "
            f"{tuple(student_z.shape)} and {tuple(teacher_z.shape)}"
        )
    if len(student_z) == 0:
        return correlation.sum(), correlation.sum()
    diagonal = correlation.diagonal()
    return (1 - diagonal).square().sum(), (correlation - torch.diag(diagonal)).square().sum()


def sem_loss(
    student_z: Tensor,
    teacher_z: Tensor,
    *,
    lambda_: float = 0.005,
    center: bool = True,
    teacher_gradient: bool = False,
) -> Tensor:
    r"""Semantic enhancement: the squared distance of the cross-correlation from the identity.

    .. math::
        \sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \ne i} C_{ij}^2

    These are sums, as printed, so the loss grows with the number of dimensions.

    Args:
        student_z: Projected embeddings of the samples, ``(N, D)``, of all processes under DDP.
        teacher_z: The teacher's embeddings of the same samples, ``(N, D)``.
        lambda_: The weight of the different dimensions; 0.005 in Barlow Twins.
        center: As in :func:`cross_correlation`.
        teacher_gradient: As in :func:`cross_correlation`.

    Returns:
        A scalar, 0 without samples; float32, or float64 if the embeddings are float64.

    Raises:
        ValueError: The numbers of samples or of dimensions differ.

    Source: Si et al., DS, eqs. 6 and 7.
    """
    on_diagonal, off_diagonal = sem_terms(student_z, teacher_z, center=center, teacher_gradient=teacher_gradient)
    return on_diagonal + lambda_ * off_diagonal


def rbf_log_mean(a: Tensor, b: Tensor, *, sigma: float) -> Tensor:
    r"""The logarithm of the mean of a radial basis function over all pairs of samples, 0 or less.

    .. math::
        \log \frac{1}{N M} \sum_{i=1}^N \sum_{j=1}^M \exp \left( -\lVert a_i - b_j \rVert^2 / \sigma^2 \right)

    Pairs of a sample with itself count, as printed. The result is finite at any distance. Gradients flow to both
    arguments. If there are more than four pairs for each number in the features, a few rows of pairs are computed at a
    time.

    Args:
        a: Features of N samples, ``(N, *)``, of all processes under DDP.
        b: Features of M samples, ``(M, *)``, with the same number of values a sample.
        sigma: The kernel's width, above 0.

    Returns:
        A scalar, 0 without samples; float32, or float64 if the features are float64.

    Raises:
        ValueError: Sigma is not positive, or the features have different numbers of dimensions.

    Source: Si et al., DS, eqs. 8, 9 and 11.
    """
    check_positive(sigma=sigma)
    first, _ = rows(a, a)
    second, _ = rows(b, b)
    _check_width(first, second)

    def of_rows(few: Tensor, others: Tensor) -> Tensor:
        return torch.logsumexp(-squared_distances(few, others) / sigma**2, 1)

    pairs, numel = len(first) * len(second), max(first.numel(), second.numel())
    if pairs == 0:
        return first.sum() + second.sum()
    few = len(first) if pairs <= 4 * numel else max(1, numel // 2 // len(second))
    sums = in_chunks(of_rows, first, shared=(second,), rows=few)
    return torch.logsumexp(sums, 0) - math.log(pairs)


def dcm_terms(
    student: Tensor, teacher: Tensor, *, sigma: float, normalize: bool = True, cross: Cross = "printed"
) -> tuple[Tensor, Tensor]:
    r"""The two parts of :func:`dcm_loss`: the student's features with each other, and with the teacher's.

    Args:
        student: Features of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's features of the same samples, ``(N, *)``, with the same number of values a sample.
        sigma: The kernel's width, above 0.
        normalize: As in :func:`dcm_loss`.
        cross: As in :func:`dcm_loss`.

    Returns:
        ``(within, cross)``, scalars.

    Raises:
        ValueError: Sigma is not positive, ``cross`` is unknown, or the shapes do not belong together.

    Source: Si et al., DS, eq. 10.
    """
    check_positive(sigma=sigma)
    check_option("cross", cross, get_args(Cross))
    student, teacher = rows(student, teacher.detach())
    _check_width(student, teacher)
    if normalize:
        student, teacher = unit_vectors(student), unit_vectors(teacher)
    within = rbf_log_mean(student, student, sigma=sigma)
    if cross == "align":
        return within, (student - teacher).square().sum() / max(1, len(student))
    return within, rbf_log_mean(student, teacher, sigma=sigma)


def dcm_loss(
    student: Tensor, teacher: Tensor, *, sigma: float, normalize: bool = True, cross: Cross = "printed"
) -> Tensor:
    r"""Distribution calibration: spreads the student's features, and moves them from or to the teacher's.

    .. math::
        L_{DM}(t^S, t^S) + L_{DM}(t^S, t^T)

    with :math:`L_{DM}` as in :func:`rbf_log_mean`. Both terms fall as points move apart, although the text says that
    the second draws student and teacher together. Without bounds the features would grow for ever, so the features of
    each sample, as one vector, are divided by their length first, as by Wang and Isola, whom the paper follows.
    ``cross="align"`` replaces the second term by the alignment that the text describes, the mean of
    :math:`\lVert t^S_i - t^T_i \rVert^2`. The teacher is a constant: no gradient flows to it.

    Args:
        student: Features of the samples, ``(N, *)``, of all processes under DDP.
        teacher: The teacher's features of the same samples, ``(N, *)``, with the same number of values a sample.
        sigma: The kernel's width, above 0; between features of length 1 distances are at most 2.
        normalize: Whether to divide by the length; False is eq. 11 as printed.
        cross: ``printed`` or ``align``.

    Returns:
        A scalar; float32, or float64 if the features are float64.

    Raises:
        ValueError: Sigma is not positive, ``cross`` is unknown, or the shapes do not belong together.

    Source: Si et al., DS, eqs. 8-11; Wang and Isola, Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere, ICML 2020.
    """
    within, across = dcm_terms(student, teacher, sigma=sigma, normalize=normalize, cross=cross)
    return within + across


def _centred(z: Tensor) -> Tensor:
    """The embeddings minus their mean over samples; a dimension that is constant up to rounding is exactly 0."""
    centred = z - z.mean(0)
    rounding = 4 * torch.finfo(z.dtype).eps * torch.linalg.vector_norm(z.detach(), dim=0)
    constant = torch.linalg.vector_norm(centred.detach(), dim=0) <= rounding
    return torch.where(constant & rounding.isfinite(), 0, centred)


def _check_width(first: Tensor, second: Tensor) -> None:
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"the features must have the same number of dimensions a sample, got {first.shape[1]} and {second.shape[1]}"
        )
