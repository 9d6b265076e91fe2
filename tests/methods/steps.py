"""A method's terms on given logits, and what they are from epoch to epoch of a fit."""

from __future__ import annotations

from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from distill import Batch, DistillationModule, NetworkOutput
from distill.weighting import SampleWeighting
from tests.losses.cases import Case


def terms_of(
    method: DistillationModule,
    case: Case,
    teacher_features: Mapping[str, Tensor] | None = None,
    student_features: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The terms of a method, which needs no networks for them."""
    return method.distillation_step(
        NetworkOutput(case.teacher, dict(teacher_features or {})),
        NetworkOutput(case.student, dict(student_features or {})),
        {"target": case.target},
    )


class Fixed(SampleWeighting):
    """Weights each sample by its place in the batch and remembers what it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Case | None = None

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        target: Tensor = batch["target"]
        self.asked = Case(student, teacher, target)
        return torch.arange(target.numel(), dtype=student.dtype).view(target.shape) / target.numel()


class EpochTerms(Callback):
    """Keeps the terms of a method on the same logits in every epoch."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.terms: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DistillationModule)
        self.terms.append(terms_of(module, self.case))
