"""What is used of Lightning beyond its public names, each with the version in which it was read."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters


def attached(module: LightningModule | LightningDataModule) -> Trainer | None:
    """The trainer of a module or of its data, if it has one; ``LightningModule.trainer`` raises then (2.6.6)."""
    return module._trainer if isinstance(module, LightningModule) else module.trainer


def loader_of(trainer: Trainer, stage: str) -> Any:
    """What the user's data give to fit, validate or test on, before a loop has asked for it (2.6.6)."""
    loop: Any = getattr(trainer, {"fit": "fit_loop", "validate": "validate_loop", "test": "test_loop"}[stage])
    return loop._data_source.dataloader()


def made_by_command_line() -> bool:
    """Whether LightningCLI makes the present module, and so knows its whole configuration (2.6.6)."""
    return _given_hyperparameters.get() is not None


class TransferHooks(LightningModule):
    """Two hooks around the transfer of a batch to the device.

    The public hooks of Lightning would make it warn every user of a data module that has the same hooks (2.6.6).
    """

    def before_transfer(self, batch: Any) -> None:
        """Called with a batch as the loader gives it."""

    def after_transfer(self, batch: Any, moved: Any) -> None:
        """Called with a batch as the loader gives it, and as it lies on the device."""

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        self.before_transfer(batch)
        moved = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        self.after_transfer(batch, moved)
        return moved
