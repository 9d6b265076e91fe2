"""Writes the configuration of a run into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from distill.atomic import atomic_write


class SavedConfig(SaveConfigCallback):
    """Writes ``fit.yaml`` and its like before the run; a resumed fit replaces the file after its first step.

    So a fit that fails before that leaves the file that belongs to the checkpoints beside it. The file is written whole
    or not at all.
    """

    _waits = False
    _folder: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file, unless a fit has written it before."""
        self._folder = trainer.log_dir  # the same on all processes
        exists = stage == "fit" and self._folder is not None and Path(self._folder, self.config_filename).is_file()
        self._waits = trainer.strategy.broadcast(exists)
        if not self._waits:
            super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Replaces the file after the first step."""
        if self._waits:
            self._waits = False
            super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file; called on the first process."""
        assert self._folder is not None
        with atomic_write(Path(self._folder, self.config_filename)) as draft:
            draft.write_text(self.parser.dump(self.config, skip_unset=False))
