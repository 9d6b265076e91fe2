"""What callbacks share that gather something over a validation or a test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EvaluationCallback(Callback, ABC):
    """Hears each batch of the validation (``val``) and of the test (``test``), but not of the sanity check."""

    @abstractmethod
    def start(self, stage: str) -> None:
        """Starts anew."""

    @abstractmethod
    def add(self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """Takes what it needs of a batch and of what the step returned for it."""

    @abstractmethod
    def close(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs or draws the epoch."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts anew."""
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
        """Adds a batch."""
        if not trainer.sanity_checking:
            self.add("val", trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the epoch."""
        if not trainer.sanity_checking:
            self.close("val", trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts anew."""
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
        """Adds a batch."""
        self.add("test", trainer, pl_module, outputs, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the test."""
        self.close("test", trainer, pl_module)
