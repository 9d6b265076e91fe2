"""Calls the hooks of the weightings during a fit."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from distill.weighting.base import SampleWeighting


class WeightingSchedule(Callback):
    """Gives every weighting in a method the task's ``ignore_index``, and calls its ``begin_epoch``."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sets ``ignore_index`` before the check of the first batch."""
        method: Any = pl_module
        for weighting in _weightings(method):
            weighting.ignore_index = method.ignore_index

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calls ``begin_epoch`` for a fit that resumes in the middle of an epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calls ``begin_epoch``."""
        for weighting in _weightings(pl_module):
            weighting.begin_epoch(trainer.current_epoch, trainer.max_epochs or -1)


def begin_fit(method: LightningModule) -> None:
    """Calls ``begin_fit`` of every weighting in a method; a weighting may rank the training set there."""
    fitted: Any = method
    for weighting in _weightings(method):
        weighting.begin_fit(fitted)


def _weightings(module: LightningModule) -> list[SampleWeighting]:
    return [part for part in module.modules() if isinstance(part, SampleWeighting)]
