"""Features of teacher and student that are compared layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from distill.base import DistillationModule
from distill.errors import UserError
from distill.outputs import NetworkOutput


def check_pairs(method: DistillationModule) -> None:
    """Raises a ValueError if teacher and student have different numbers of layers."""
    teacher, student = len(method.teacher_layers), len(method.student_layers)
    if teacher != student:
        raise UserError(
            f"{type(method).__name__} compares layers pair by pair, but there are {teacher} teacher_layers and "
            f"{student} student_layers"
        )


def require_pairs(method: DistillationModule) -> None:
    """Raises a ValueError if a method has no layers, or teacher and student have different numbers of layers."""
    check_pairs(method)
    if not method.student_layers:
        raise UserError(f"{type(method).__name__} has no layers to compare: name teacher_layers and student_layers")


def feature_pairs(
    method: DistillationModule, student: NetworkOutput, teacher: NetworkOutput
) -> Iterator[tuple[Tensor, Tensor]]:
    """The features of the student's and the teacher's layers, pair by pair."""
    return zip(student.at(method.student_layers), teacher.at(method.teacher_layers), strict=True)


def as_map(feature: Tensor) -> Tensor:
    """A vector ``(N, C)`` as a map of one position, ``(N, C, 1, 1)``; maps are returned as they are."""
    return feature[..., None, None] if feature.ndim == 2 else feature


def as_vector(feature: Tensor) -> Tensor:
    """The mean of a map ``(N, C, *)`` over its positions, ``(N, C)``; vectors are returned as they are."""
    return feature if feature.ndim == 2 else feature.flatten(2).mean(2)
