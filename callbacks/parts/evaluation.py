"""Bases of the callbacks that collect something over a validation or a test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.parts.run_folder import run_folder
from distill.checks import check_at_least


class EvaluationCallback(Callback, ABC):
    """Receives each batch of the validation (``val``) and of the test (``test``), but not of the sanity check."""

    _warned = False

    @abstractmethod
    def start(self, stage: str) -> None:
        """Forgets the batches of an earlier epoch."""

    @abstractmethod
    def add(self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """Collects from a batch and from what the step returned for it."""

    @abstractmethod
    def close(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs or draws the epoch."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a validation."""
        self.start("val")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch of the validation."""
        if not trainer.sanity_checking:
            self.add("val", trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the validation."""
        if not trainer.sanity_checking:
            self.close("val", trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a test."""
        self.start("test")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch of the test."""
        self.add("test", trainer, pl_module, outputs, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the test."""
        self.close("test", trainer, pl_module)

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            rank_zero_warn(f"{type(self).__name__} {message}")
        self._warned = True


class DrawingCallback(EvaluationCallback):
    """Base of the callbacks that draw some validations of a fit: those after every few epochs, and the last one.

    Args:
        every_n_epochs: The first validation after each ``every_n_epochs`` epochs is drawn, and the last validation.

    Raises:
        ValueError: ``every_n_epochs`` is below 1.
    """

    def __init__(self, every_n_epochs: int) -> None:
        check_at_least(1, every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self._folder: Path | None = None
        self._epoch = 0
        self._drawn_epochs = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run's folder."""
        self._folder = run_folder(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the epochs before a resumed fit as drawn."""
        self._drawn_epochs = trainer.current_epoch

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether to draw this validation of a fit; asked once in each validation."""
        self._epoch = trainer.current_epoch
        ended = self._epoch + 1
        due = ended // self.every_n_epochs > self._drawn_epochs // self.every_n_epochs
        if due:
            self._drawn_epochs = ended
        return due


def log_reduced(pl_module: LightningModule, values: dict[str, Any]) -> None:
    """Logs values of an epoch that are equal on all processes already."""
    # sync_dist changes nothing here; without it, Lightning warns
    pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)
