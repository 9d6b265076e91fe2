"""A table of what a classifier predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from distill.atomic import written_whole


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv`` to the run's folder at the end of ``predict``.

    One line a sample, in the order of the data set: ``index``, ``target`` where the data have it, the predicted
    class as ``prediction`` and its probability as ``confidence``. With several processes, one table of all.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Gathers the rows of all processes and writes them, whole or not at all."""
        rows = pd.concat([_rows(batch) for batch in predictions], ignore_index=True)
        if trainer.world_size > 1:
            parts: list[pd.DataFrame] = [rows] * trainer.world_size
            dist.all_gather_object(parts, rows)
            rows = pd.concat(parts, ignore_index=True)
        folder = trainer.log_dir
        if trainer.is_global_zero and folder is not None:
            by = [name for name in ("index",) if name in rows]
            with written_whole(Path(folder, "predictions.csv")) as draft:
                (rows.drop_duplicates(by).sort_values(by) if by else rows).to_csv(draft, index=False)


def _rows(batch: dict[str, torch.Tensor]) -> pd.DataFrame:
    logits = batch["prediction"]
    if logits.ndim != 2:
        raise ValueError(f"predictions.csv holds one class a sample, but the predictions have the shape {logits.shape}")
    confidence, prediction = logits.float().softmax(dim=1).max(dim=1)
    columns = {key: batch[key] for key in ("index", "target") if key in batch}
    columns |= {"prediction": prediction, "confidence": confidence}
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
