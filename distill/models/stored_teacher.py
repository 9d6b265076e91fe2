"""A teacher whose predictions are stored."""

from __future__ import annotations

from torch import Tensor, nn


class StoredTeacher(nn.Module):
    """Returns the stored prediction of a teacher, for teachers that cannot run here.

    The data module must have ``teacher_prediction`` in its batch. In the configuration of a method::

        teacher: {class_path: distill.models.StoredTeacher}
        teacher_inputs: [teacher_prediction]

    It has no parameters, so it needs no ``teacher_checkpoint``, and no layers to tap.
    """

    def forward(self, teacher_prediction: Tensor) -> Tensor:
        """The stored prediction, unchanged."""
        return teacher_prediction
