"""Factor transfer: the factors to which a paraphraser compresses features."""

from __future__ import annotations

from torch import Tensor

from distill.errors import UserError
from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_means


def factor_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""The mean absolute difference of two factors of length 1.

    .. math::
        \frac{1}{D} \left\lVert \frac{F^T}{\lVert F^T \rVert_2} - \frac{F^S}{\lVert F^S \rVert_2} \right\rVert_1

    with D the number of values in a factor. The paper prints the norm without 1 / D (p = 1 or 2). Published code takes
    the mean, to which the weight of 500 belongs; some of it compares attention maps instead of factors. The teacher is
    a constant: no gradient flows to it.

    Args:
        student: The factors from the student's translator, ``(N, K, *)``.
        teacher: The factors from the teacher's paraphraser, of the same shape.
        reduction: ``"none"`` for one value a sample, ``"mean"`` over the samples, or ``"sum"``.

    Returns:
        ``(N,)`` for ``"none"``, else a scalar; float32, or float64 if the factors are float64.

    Raises:
        ValueError: The reduction is unknown, or the shapes differ.

    Source: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018, eq. 4.
    """
    check_reduction(reduction)
    if student.shape != teacher.shape or student.ndim < 2:
        raise UserError(
            "the factors of student and teacher must have the same shape (N, K, *), got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    of_student, of_teacher = (
        unit_vectors(at_least_float32(factor).flatten(1)) for factor in (student, teacher.detach())
    )
    return reduce_means((of_student - of_teacher).abs(), reduction)
