"""PSSM: samples on which teacher and student have different solution spaces get less weight."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_option, check_positive, check_weights
from distill.losses import dkd_loss, kd_loss
from distill.methods.parts.classes import target_classes
from distill.weighting import PerceptualSolutionSpaceMask


class PSSM(DistillationModule):
    """KD or DKD under the perceptual solution space mask (anonymous, under review, 2023, eqs. 5-9).

    Needs: ``target``.

    Source: "Investigating the impact of data distribution shifts on cross-modal knowledge distillation", anonymous,
    under review, 2023.

    ``hard_weight * CE + weight * mask * KD`` (eq. 8) or ``... * mask * (alpha TCKD + beta NCKD)`` (eq. 9). If the
    teacher's prediction for a sample is wrong, the weight of the sample is the similarity of the two outputs.
    :class:`~distill.weighting.PerceptualSolutionSpaceMask` explains how eqs. 5-7 are read.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        loss: ``kd`` (eq. 8) or ``dkd`` (eq. 9).
        alpha: The weight of TCKD; the paper has 100 on scikit-learn data, 16 on MNIST-M.
        beta: The weight of NCKD; 1 in the paper.
        temperature: T, which divides the logits of both networks; the paper names no value.
        weight: The weight of the masked loss; the paper's lambda.
        reading: How eq. 6 is read; see the mask.
        threshold: tau of eq. 6; the paper names no value.
        predictor: The network whose prediction eq. 7 compares with the label.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: ``loss`` is neither ``kd`` nor ``dkd``, or an argument of the mask is out of its range.
    """

    def __init__(
        self,
        *args: Any,
        loss: Literal["kd", "dkd"] = "dkd",
        alpha: float = 16.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        weight: float = 1.0,
        reading: Literal["text", "printed", "drop_wrong"] = "text",
        threshold: float = 0.1,
        predictor: Literal["teacher", "student"] = "teacher",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_option("loss", loss, ("kd", "dkd"))
        check_weights(self.hard_weight, weight=weight)
        check_at_least(0, alpha=alpha, beta=beta)
        if loss == "dkd":
            check_weights(self.hard_weight, alpha=alpha, beta=beta)
        check_positive(temperature=temperature)
        self.loss = loss
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.weight = weight
        self.mask = PerceptualSolutionSpaceMask(reading=reading, threshold=threshold, predictor=predictor)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 8 or 9."""
        outputs, target = (student.prediction, teacher.prediction), target_classes(self, batch)
        mask = self.mask(*outputs, batch)
        if self.loss == "kd":
            values = kd_loss(
                *outputs,
                temperature=self.temperature,
                target=target,
                ignore_index=self.ignore_index,
                reduction="none",
            )
        else:
            values = dkd_loss(
                *outputs,
                target,
                alpha=self.alpha,
                beta=self.beta,
                temperature=self.temperature,
                ignore_index=self.ignore_index,
                reduction="none",
            )
        return {"pssm": self.weight * mask * values}
