"""NTDH: how much the divergence on non-target classes counts, and on which samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.losses import decoupled_kd_terms
from distill.weighting import NontargetSampleMask


class NTDH(DistillationModule):
    """Weight adjustment and sample mask of the non-target divergence hypothesis (eqs. 17-20, Algorithm 2).

    Chen et al., "Non-target divergence hypothesis: toward understanding domain gaps in cross-modal knowledge
    distillation", 2024.

    ``hard_weight * CE + alpha * TCKL + beta * NCKL``, on the samples that the mask leaves. The hypothesis says that
    distillation fails where teacher and student diverge on the non-target classes: then a larger ``beta`` harms, and
    dropping the samples of the largest divergence helps.

    Samples that are dropped still count in the mean, unless the mask says ``average="kept"``, so that a mask also
    lowers the weight of distillation as a whole: what its choice of samples does shows against ``mode="random"`` alone.

    TCKL is the full binary divergence of eq. 17, not the single term that eq. 19 prints. The paper's captions
    exchange alpha and beta; here, as in its Sec. IV-C, alpha weighs TCKL.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        alpha: The weight of TCKL; swept from 1 to 20 in the paper.
        beta: The weight of NCKL; swept likewise.
        temperature: T, by which the logits of both are divided.
        sample_mask: Which samples or pixels are dropped (Algorithm 2); none by default.
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
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.sample_mask = sample_mask

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """TCKL and NCKL of eq. 17, without the factor of the teacher's non-target probability, as in eq. 18."""
        tckl, nckl = decoupled_kd_terms(
            student.prediction,
            teacher.prediction,
            batch["target"],
            temperature=self.temperature,
            ignore_index=self.ignore_index,
        )
        if self.sample_mask is not None:
            kept = self.sample_mask(student.prediction, teacher.prediction, batch)
            tckl, nckl = kept * tckl, kept * nckl
        return {"tckl": self.alpha * tckl, "nckl": self.beta * nckl}
