"""LIX: dynamically-weighted logits and adaptively-recalibrated features side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.checks import check_at_least, check_weights
from distill.losses.arfd import Kernel, Measure
from distill.losses.dwld import Form
from distill.methods.arfd import ARFD
from distill.methods.combined import Combined
from distill.methods.dwld import DWLD, DynamicWeightController


class LIX(Combined):
    """Learning to infuse "X" (Guo et al., IEEE Transactions on Image Processing 2025, arXiv:2403.08215, eq. 21).

    Needs: ``target``, pairs of layers.

    Trains: what DWLD and ARFD train.

    ``hard_weight * CE + logit_weight * DWLD + feature_weight * ARFD``, in the ratio 2 : 1 : 1 unless said otherwise,
    the best of the paper's Table V. See :class:`DWLD` and :class:`ARFD`, whose terms are logged as ``train/dwld/...``
    and ``train/arfd/...``.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        teacher_layers: Layers of the teacher for ARFD.
        student_layers: The student's layers that are paired with them, as many.
        alpha: As in :class:`DWLD`.
        temperature: As in :class:`DWLD`.
        form: As in :class:`DWLD`.
        controller: As in :class:`DWLD`.
        warmup_epochs: As in :class:`DWLD`.
        kernel: As in :class:`ARFD`.
        measure: As in :class:`ARFD`.
        logit_weight: lambda_L, the weight of DWLD.
        feature_weight: lambda_F, the weight of ARFD.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: As :class:`ARFD`.
    """

    def __init__(
        self,
        *args: Any,
        teacher_layers: Sequence[str] = (),
        student_layers: Sequence[str] = (),
        alpha: float = 1.0,
        temperature: float = 1.0,
        form: Form = "bregman",
        controller: DynamicWeightController | None = None,
        warmup_epochs: int = 0,
        kernel: Kernel = "laplace",
        measure: Measure = "cka",
        logit_weight: float = 0.5,
        feature_weight: float = 0.5,
        **kwargs: Any,
    ) -> None:
        check_at_least(0, logit_weight=logit_weight, feature_weight=feature_weight)
        dwld = DWLD(
            alpha=alpha,
            temperature=temperature,
            form=form,
            weight=logit_weight,
            controller=controller,
            warmup_epochs=warmup_epochs,
        )
        arfd = ARFD(
            teacher_layers=teacher_layers,
            student_layers=student_layers,
            kernel=kernel,
            measure=measure,
            weight=feature_weight,
        )
        super().__init__(*args, methods={"dwld": dwld, "arfd": arfd}, weights=None, **kwargs)
        check_weights(self.hard_weight, logit_weight=logit_weight, feature_weight=feature_weight)
