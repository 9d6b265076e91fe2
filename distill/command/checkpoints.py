"""Checkpoint files: keeps the best weights, writes files whole, and reads them without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from distill.atomic import atomic_write
from distill.checkpoint import read_content
from distill.errors import UserOSError
from distill.training.averaging import stochastic_average_ended


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``checkpoints/best.ckpt``: the weights of the epoch with the best value of a metric.

    With ``StochasticWeightAveraging`` it holds the average instead, from the end of the fit.

    Args:
        folder: The run's folder.
        monitor: The metric.
        mode: ``max`` if a higher value is better, else ``min``.
    """

    strict = False
    """If a validation lacks the metric, for example for want of labels, a warning says so and the fit continues."""

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(
            folder / "checkpoints",
            "best",
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            enable_version_counter=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the weights that were averaged over epochs; no epoch has validated them."""
        super().on_train_end(trainer, pl_module)
        if stochastic_average_ended(trainer):
            assert self.dirpath is not None
            self.best_model_path = self.format_checkpoint_name({})
            trainer.save_checkpoint(self.best_model_path, weights_only=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ranks the epoch, if its validation had labels and so a value of the metric."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)
        elif not trainer.sanity_checking:
            rank_zero_warn(f"the validation has no {self.monitor} to rank epochs by, so best.ckpt is not written")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As ``on_validation_end``."""
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, but written whole or not at all, and read without running code from them.

    Lightning writes to the system's temporary folder and then moves the file. If that folder is on another disk, the
    move is a copy, and a kill during the copy leaves a part of the file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the checkpoint beside ``path``, then renames it."""
        if "://" in str(path):  # an object store already writes an object whole or not at all
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with atomic_write(path) as draft:
                torch.save(checkpoint, draft)
        except (OSError, RuntimeError) as error:  # torch raises a RuntimeError when the disk is full
            reason = str(error).splitlines()[0]
            raise UserOSError(f"{path} cannot be written ({reason}): the previous checkpoint is kept") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint; it may hold plain data only, unless ``weights_only`` is false."""
        if weights_only is False or "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only is not False)
        content: dict[str, Any] = read_content(Path(path))
        return content
