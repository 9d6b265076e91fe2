"""NTDH: target and non-target classes have weights of their own, and a mask drops samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_positive, check_weights
from distill.losses import decoupled_kd_terms
from distill.methods.parts.classes import target_classes
from distill.weighting import NontargetSampleMask


class NTDH(DistillationModule):
    """Non-target divergence hypothesis: weight adjustment and sample mask (Chen et al., 2024, eqs. 17-20, Algorithm 2).

    Needs: ``target``.

    Source: Chen et al., "Non-target divergence hypothesis: toward understanding domain gaps in cross-modal knowledge
    distillation", 2024.

    ``hard_weight * CE + alpha * TCKL + beta * NCKL``, on the samples that the mask keeps. The hypothesis says that
    distillation fails if teacher and student diverge on the non-target classes. Then a larger ``beta`` harms, and
    dropping the samples of the largest divergence helps.

    Dropped samples still count in the mean, unless the mask has ``average="kept"``. So a mask also lowers the weight of
    distillation as a whole; only a comparison with ``mode="random"`` shows the effect of its choice of samples.

    TCKL is the full binary divergence of eq. 17, not the single term that eq. 19 prints. The paper's captions
    exchange alpha and beta; here, as in its Sec. IV-C, alpha is the weight of TCKL.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        alpha: The weight of TCKL; swept from 1 to 20 in the paper.
        beta: The weight of NCKL; swept from 1 to 20 in the paper.
        temperature: T, which divides the logits of both networks.
        sample_mask: Drops samples or pixels (Algorithm 2); by default none are dropped.
        **kwargs: As in :class:`~distill.base.DistillationModule`.
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        sample_mask: NontargetSampleMask | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_weights(self.hard_weight, alpha=alpha, beta=beta)
        check_positive(temperature=temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.sample_mask = sample_mask

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """TCKL and NCKL of eq. 17, without the factor of the teacher's non-target probability, as in eq. 18."""
        tckl, nckl = decoupled_kd_terms(
            student.prediction,
            teacher.prediction,
            target_classes(self, batch),
            temperature=self.temperature,
            ignore_index=self.ignore_index,
        )
        if self.sample_mask is not None:
            kept = self.sample_mask(student.prediction, teacher.prediction, batch)
            tckl, nckl = kept * tckl, kept * nckl
        return {"tckl": self.alpha * tckl, "nckl": self.beta * nckl}
