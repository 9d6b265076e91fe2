"""A teacher whose responses were stored."""

from __future__ import annotations

from torch import Tensor, nn


class StoredTeacher(nn.Module):
    """The teacher's prediction as the data module read it: a teacher that cannot be run here still teaches.

    In the configuration of a method, with a data module whose batch has ``teacher_prediction``::

        teacher: {class_path: distill.models.StoredTeacher}
        teacher_inputs: [teacher_prediction]

    It has no parameters, and so needs no ``teacher_checkpoint``, and no layers to tap.
    """

    def forward(self, teacher_prediction: Tensor) -> Tensor:
        """The stored prediction, as it is."""
        return teacher_prediction
