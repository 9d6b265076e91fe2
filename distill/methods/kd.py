"""KD: the student matches the teacher's softened predictions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_positive, check_weights
from distill.errors import UserError
from distill.losses import kd_loss
from distill.weighting import SampleWeighting


class KD(DistillationModule):
    """Knowledge distillation (Hinton et al., NIPS Deep Learning Workshop 2014, arXiv:1503.02531, Sec. 2).

    ``hard_weight * CE + weight * w * T^2 KL(teacher || student)``, with a weight ``w`` for each sample where a
    ``weighting`` is given.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        temperature: T, by which the logits of both are divided. 4 is common.
        weight: The weight of the distillation term; 0.9 is common.
        hard_weight: The weight of the hard loss; 0.1 is common.
        weighting: Weights each sample or pixel by what teacher and student predict for it.
        **kwargs: As in :class:`~distill.base.DistillationModule`.
    """

    def __init__(
        self,
        *args: Any,
        temperature: float = 4.0,
        weight: float = 0.9,
        hard_weight: float = 0.1,
        weighting: SampleWeighting | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, hard_weight=hard_weight, **kwargs)  # type: ignore[misc]
        check_weights(self.hard_weight, weight=weight)
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.weight = weight
        self.weighting = weighting

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Hinton et al.'s soft cross entropy, up to the teacher's entropy."""
        if student.prediction.shape[1] < 2:
            raise UserError(
                f"{type(self).__name__} compares probabilities of classes, but the predictions have one channel, "
                f"{tuple(student.prediction.shape)}: ResKD compares depths"
            )
        target = batch.get("target")
        if target is not None and target.is_floating_point():  # soft labels ignore no position
            target = None
        kd = kd_loss(
            student.prediction,
            teacher.prediction,
            temperature=self.temperature,
            target=target,
            ignore_index=self.ignore_index,
            reduction="none",
        )
        if self.weighting is not None:
            kd = kd * self.weighting(student.prediction, teacher.prediction, batch)
        return {"kd": self.weight * kd}
