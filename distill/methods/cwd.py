"""CWD: each channel of the student is active at the same positions as that of the teacher."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_positive, check_weights
from distill.losses import cwd_loss
from distill.losses.parts.pooling import with_dims_of
from distill.methods.parts.adaptors import Pointwise
from distill.methods.parts.pairs import check_pairs, position_pairs
from distill.tasks.parts.resizing import resized


class CWD(DistillationModule):
    """Channel-wise knowledge distillation for dense prediction (Shu et al., ICCV 2021, eqs. 4 and 5).

    Needs: logits of maps, or pairs of maps.

    Trains: a 1x1 convolution for each pair.

    ``hard_weight * CE + weight * T^2 KL(teacher || student)``, where the softmax of each channel goes over the
    positions. Without layers, the channels are the logits of the classes. With layers, they are channels of features: a
    1x1 convolution brings the student's channels to the teacher's (the authors' code has one only if the numbers
    differ), and the result is brought to the teacher's positions: interpolated linearly along each dim that is smaller,
    averaged along each that is larger. Of a pair with 3 and 2 spatial dims the larger one is averaged over its first,
    time or depth.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        temperature: T, which divides the values of both networks; 4 in the paper.
        weight: The weight of the distillation term, which is summed over the layers. By default, and in the paper, 3 on
            logits and 50 on features.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: Teacher and student have different numbers of layers; from ``setup``: two layers share no positions,
            or one only.
    """

    def __init__(self, *args: Any, temperature: float = 4.0, weight: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_pairs(self)
        check_weights(self.hard_weight, weight=weight)
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.weight = weight if weight is not None else 50.0 if self.student_layers else 3.0
        self.adaptors = nn.ModuleList(Pointwise() for _ in self.student_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 5 on the logits, or on every pair of features."""
        pairs = [(student.prediction, teacher.prediction)]
        if self.student_layers:
            features = zip(self.adaptors, position_pairs(self, student, teacher), strict=True)
            pairs = [_adapted(adaptor, *pair) for adaptor, pair in features]
        values = [cwd_loss(*pair, temperature=self.temperature, reduction="none") for pair in pairs]
        return {"cwd": self.weight * sum(values[1:], start=values[0])}


def _adapted(adaptor: nn.Module, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The student's feature with the teacher's number of channels and size, and the teacher's."""
    student, teacher = with_dims_of(student, teacher), with_dims_of(teacher, student)
    return resized(adaptor(student, teacher.shape[1]), teacher.shape[2:]), teacher
