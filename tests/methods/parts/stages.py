"""What a fit makes of a module from epoch to epoch."""

from __future__ import annotations

import copy
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from distill import DistillationModule
from tests.toys import ToyData, quiet_trainer


class _Weights(Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seen.append(copy.deepcopy(module.state_dict()))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seen.append(copy.deepcopy(module.state_dict()))


def weights_after_each_epoch(module: DistillationModule, folder: Path, method: str = "") -> list[dict[str, Tensor]]:
    """The weights before the fit, after its first and after its second epoch."""
    weights = _Weights()
    quiet_trainer(folder, callbacks=[weights]).fit(module, ToyData(method=method))
    return weights.seen
