"""The mean losses of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from distill.distributed import all_gather_objects, rank_part


class EpochLosses(Callback):
    """Sums up the losses of an epoch over its samples, and logs their means as ``train/<name>`` when it ends.

    A callback, so that a module which overrides ``on_train_epoch_end`` does not lose them.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, losses: Mapping[str, Tensor], samples: int) -> None:
        """Adds the losses of a step, means over so many samples."""
        for name, value in losses.items():
            total, count = self._sums.get(name, (torch.zeros(()), 0))
            self._sums[name] = total + samples * value.detach(), count + samples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what a fit that failed has left; a checkpoint is loaded after this."""
        self._sums = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the means."""
        for name, (total, samples) in self._sums.items():
            pl_module.log(f"train/{name}", total / samples, sync_dist=True, batch_size=samples)
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        """The sums so far of every process; none between epochs."""
        return {"sums": all_gather_objects({name: (total.cpu(), count) for name, (total, count) in self._sums.items()})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the sums of this process."""
        self._sums = rank_part(state_dict["sums"], {})
