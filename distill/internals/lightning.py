"""What is used of Lightning beyond its public names, each with the version in which it was read."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters


def attached(module: LightningModule | LightningDataModule) -> Trainer | None:
    """The trainer of a module or of its data, if it has one; ``LightningModule.trainer`` raises then (2.6.6)."""
    return module._trainer if isinstance(module, LightningModule) else module.trainer


def loader_of(trainer: Trainer, stage: str) -> Any:
    """What the user's data give to fit, validate or test on, before a loop has asked for it (2.6.6)."""
    loops: dict[str, Any] = {"fit": trainer.fit_loop, "validate": trainer.validate_loop, "test": trainer.test_loop}
    return loops[stage]._data_source.dataloader()


def made_by_command_line() -> bool:
    """Whether LightningCLI makes the present module, and so knows its whole configuration (2.6.6)."""
    return _given_hyperparameters.get() is not None
