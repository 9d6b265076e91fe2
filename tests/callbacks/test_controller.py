from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import ControllerTracker
from distill.methods import DWLD
from tests.callbacks.pairs import trainer
from tests.toys import ToyData, make


class Weights(Callback):
    """Computes the weights of a step's predictions again."""

    def __init__(self) -> None:
        self.means: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, DWLD)
        assert pl_module.network is not None
        with torch.no_grad():
            prediction = pl_module.network(batch["x_b"])
            self.means.append(pl_module.controller(prediction, prediction).mean().item())


def test_the_mean_weight_of_each_epoch_is_logged(tmp_path: Path) -> None:
    module = make("DWLD on maps")
    assert module.network is not None
    module.network.dropout = torch.nn.Identity()
    weights = Weights()
    fit = trainer(tmp_path, ControllerTracker(), weights, max_epochs=2, num_sanity_val_steps=0)
    fit.fit(module, ToyData(batch_size=5, method="DWLD on maps"))
    logged = pd.read_csv(tmp_path / "run" / "metrics.csv")["train/beta"].dropna()
    assert len(logged) == 2
    assert logged.iloc[0] == pytest.approx(sum(weights.means[:2]) / 2, rel=1e-5)
    assert logged.iloc[0] != logged.iloc[1]
    assert 1 <= logged.min() <= logged.max() <= 10


def test_nothing_is_left_on_the_module_and_other_methods_are_left_alone(tmp_path: Path) -> None:
    for method in ("LIX on maps", "KD on maps"):
        module = make(method)
        fit = trainer(tmp_path / method, ControllerTracker(), max_epochs=1)
        fit.fit(module, ToyData(method=method))
        assert ("train/beta" in fit.callback_metrics) == (method == "LIX on maps")
        assert not any(part._forward_hooks for name, part in module.named_modules() if "controller" in name)
