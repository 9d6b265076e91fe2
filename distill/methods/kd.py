"""KD: the student matches the teacher's softened predictions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_positive, check_weights
from distill.errors import UserError
from distill.losses import binary_kd_loss, kd_loss
from distill.methods.parts.classes import target_classes
from distill.metrics.parts.channels import with_channel
from distill.tasks import MultiLabelClassification, Regression
from distill.weighting import SampleWeighting


class KD(DistillationModule):
    """Knowledge distillation (Hinton et al., NIPS Deep Learning Workshop 2014, arXiv:1503.02531, Sec. 2).

    ``hard_weight * CE + weight * w * T^2 KL(teacher || student)``, with a weight ``w`` for each sample where a
    ``weighting`` is given.

    With the task :class:`~distill.MultiLabelClassification` the divergence is that of each label on its own, as the
    mean over all known labels (:func:`~distill.losses.binary_kd_loss`). Yang et al. (ICCV 2023) take the sum over the
    labels, which is this with C times the weight.

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
        """Hinton et al.'s soft cross entropy, up to the teacher's entropy; for several labels that of each label."""
        if isinstance(self.task, MultiLabelClassification):
            return {"kd": self.weight * self._of_labels(self.task, teacher, student, batch)}
        self._check_classes(student)
        target = batch.get("target")
        if target is not None and target.is_floating_point():  # the task says which soft labels count
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
            target_classes(self, batch)
            kd = kd * self.weighting(student.prediction, teacher.prediction, batch)
        return {"kd": self.weight * kd}

    def _check_classes(self, student: NetworkOutput) -> None:
        name, shape = type(self).__name__, tuple(student.prediction.shape)
        if isinstance(self.task, Regression):
            raise UserError(f"{name} compares probabilities of classes, but Regression has none: ResKD compares values")
        if student.prediction.shape[1] < 2:
            raise UserError(
                f"{name} compares probabilities of classes, but the predictions have one channel, {shape}: ResKD "
                "compares depths and other values, and KD takes one logit for two classes with MultiLabelClassification"
            )

    def _of_labels(
        self, task: MultiLabelClassification, teacher: NetworkOutput, student: NetworkOutput, batch: Batch
    ) -> Tensor:
        """The divergence of each label, ``(N, C, *)``, whose mean is over the known labels."""
        if self.weighting is not None:
            target_classes(self, batch)  # raises an error: a weighting compares the class of a sample
        known = task.known(with_channel(batch["target"])) if "target" in batch else None
        return binary_kd_loss(
            student.prediction,
            teacher.prediction,
            temperature=self.temperature,
            known=known,
            over_labels="none",
            reduction="none",
        )
