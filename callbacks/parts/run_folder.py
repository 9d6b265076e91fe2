"""The folder of a run."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer) -> Path | None:
    """The folder that a run writes its files to; ``None`` in a trial run (``fast_dev_run``), which writes none.

    All processes must call this, because Lightning broadcasts the folder of the main process.
    """
    folder = None if trainer.fast_dev_run else trainer.log_dir  # type: ignore[attr-defined]
    return None if folder is None else Path(folder)
