"""DKD: target class and non-target classes are distilled apart."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_positive, check_weights
from distill.losses import decoupled_kd_terms
from distill.methods.parts.classes import target_classes
from distill.methods.parts.warmup import warmup_share
from distill.weighting import SampleWeighting


class DKD(DistillationModule):
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022, eq. 7).

    Needs: ``target``.

    ``hard_weight * CE + alpha T^2 TCKD + beta T^2 NCKD``: TCKD compares the probability of the target class with that
    of all others together, NCKD the probabilities among the others.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        alpha: The weight of TCKD; 1 in the paper.
        beta: The weight of NCKD; 8 in the paper for most pairs of networks on CIFAR-100, 0.5 on ImageNet.
        temperature: T, by which the logits of both are divided; 4 in the paper on CIFAR-100, 1 on ImageNet.
        warmup_epochs: Over this many epochs the weight of both terms grows linearly to its full value; 20 in the
            authors' code on CIFAR-100. 0 starts with the full weight.
        weighting: Weights each sample or pixel by what teacher and student predict for it.
        **kwargs: As in :class:`~distill.base.DistillationModule`.
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup_epochs: int = 20,
        weighting: SampleWeighting | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_weights(self.hard_weight, alpha=alpha, beta=beta)
        check_positive(temperature=temperature)
        check_at_least(0, warmup_epochs=warmup_epochs)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.warmup_epochs = warmup_epochs
        self.weighting = weighting

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 7, its terms apart."""
        tckd, nckd = decoupled_kd_terms(
            student.prediction,
            teacher.prediction,
            target_classes(self, batch),
            temperature=self.temperature,
            ignore_index=self.ignore_index,
        )
        weight: float | Tensor = warmup_share(self.current_epoch, self.warmup_epochs)
        if self.weighting is not None:
            weight = weight * self.weighting(student.prediction, teacher.prediction, batch)
        return {"tckd": self.alpha * weight * tckd, "nckd": self.beta * weight * nckd}
