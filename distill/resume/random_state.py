"""The random state in a checkpoint: a resumed fit draws the same random numbers as a fit that never stopped."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from distill.distributed import all_gather_objects, rank_part


class RandomState(Callback):
    """Saves the random state of every process in checkpoints, and restores it before a resumed fit shuffles data."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the random states of all processes."""
        checkpoint["rng_states"] = all_gather_objects(rng_states())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the state of this process for :meth:`on_fit_start`."""
        states = checkpoint.get("rng_states")
        if isinstance(states, dict):  # older checkpoints hold the state of one process
            states = [states]
        self._loaded = rank_part(states, states[0]) if states else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the random state of the checkpoint."""
        if self._loaded is not None and trainer.ckpt_path is not None:
            set_rng_states(self._loaded)
        self._loaded = None


def rng_states() -> dict[str, Any]:
    """The states of torch (CPU and GPUs), NumPy and Python, as data that loads with ``weights_only=True``."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  data sets may use the global generator
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch.cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_states(states: dict[str, Any]) -> None:
    """Restores the result of :func:`rng_states`; GPU states only if the number of GPUs is the same."""
    torch.set_rng_state(states["torch"])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if len(states["torch.cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["torch.cuda"])
