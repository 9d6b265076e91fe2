"""Features of teacher and student that are compared layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from distill.base import DistillationModule
from distill.errors import UserError
from distill.losses.parts.pooling import check_positions
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


def position_pairs(
    method: DistillationModule, student: NetworkOutput, teacher: NetworkOutput
) -> Iterator[tuple[Tensor, Tensor]]:
    """As :func:`feature_pairs`, for methods that compare the positions of maps.

    Raises:
        ValueError: The features of a pair share no positions, or one only.
    """
    layers = zip(method.student_layers, method.teacher_layers, strict=True)
    for (of_student, of_teacher), pair in zip(layers, feature_pairs(method, student, teacher), strict=True):
        with comparing_positions(method, f"student layer {of_student!r} and teacher layer {of_teacher!r}"):
            check_positions(*pair)
        yield pair


@contextmanager
def comparing_positions(method: DistillationModule, layers: str) -> Iterator[None]:
    """Says in an error about features which method compares which layers."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{type(method).__name__} compares positions, which {layers} do not allow: {error}") from None


def as_map(feature: Tensor) -> Tensor:
    """A vector ``(N, C)`` as a map of one position, ``(N, C, 1, 1)``; maps are returned as they are."""
    return feature[..., None, None] if feature.ndim == 2 else feature
