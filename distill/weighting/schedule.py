"""Tells the weightings of samples where in a fit they are."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from distill.weighting.base import SampleWeighting


class WeightingSchedule(Callback):
    """Gives every weighting in a method the task's ``ignore_index``, and calls its ``begin_epoch``."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Passes on the target of positions to ignore, before the first batch is tried."""
        method: Any = pl_module
        for weighting in _weightings(method):
            weighting.ignore_index = method.ignore_index

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names the epoch, also where a fit is resumed in the middle of one."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names the epoch."""
        for weighting in _weightings(pl_module):
            weighting.begin_epoch(trainer.current_epoch, trainer.max_epochs or -1)


def begin_fit(method: LightningModule) -> None:
    """Lets every weighting in a method prepare, as by ranking the training set."""
    fitted: Any = method
    for weighting in _weightings(method):
        weighting.begin_fit(fitted)


def _weightings(module: LightningModule) -> list[SampleWeighting]:
    return [part for part in module.modules() if isinstance(part, SampleWeighting)]
