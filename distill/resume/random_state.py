"""The random state in a checkpoint: a resumed fit shuffles and drops as one that was never stopped."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from distill.distributed import all_gather_objects, rank_part


class RandomState(Callback):
    """Keeps the random state of every process in checkpoints, and sets it before a resumed fit shuffles anything."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the states of all processes."""
        checkpoint["rng_states"] = all_gather_objects(rng_states())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remembers the state of this process for :meth:`on_fit_start`."""
        states = checkpoint.get("rng_states")
        if isinstance(states, dict):  # one process's, as older checkpoints hold
            states = [states]
        self._loaded = rank_part(states, states[0]) if states else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continues with the random numbers of the checkpoint."""
        if self._loaded is not None and trainer.ckpt_path is not None:
            set_rng_states(self._loaded)
        self._loaded = None


def rng_states() -> dict[str, Any]:
    """The states of torch (CPU and GPUs), NumPy and Python; loads with ``weights_only=True``."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  the global generator is meant
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch.cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_states(states: dict[str, Any]) -> None:
    """Puts back what :func:`rng_states` returned; GPU states only where there are as many GPUs."""
    torch.set_rng_state(states["torch"])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if len(states["torch.cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["torch.cuda"])
