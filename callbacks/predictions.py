"""A table of what a classifier predicts."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.parts.run_folder import run_folder
from callbacks.responses import ResponseWriter
from distill.atomic import atomic_write


class PredictionWriter(Callback):
    """Writes ``predictions.csv`` to the run's folder at the end of ``predict``.

    Each sample has a line, in the order of the data set: ``index``, ``target`` if the data have it, the predicted class
    as ``prediction`` and its probability as ``confidence``. Several processes write one table together. If the
    predictions are not one class for each sample, as in segmentation, a warning says so and there is no table.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Tensor]] = []
        self._warned = False

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts an empty table."""
        self._batches = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps two numbers a sample, so that the logits of all samples need not fit into memory."""
        logits = outputs["prediction"]
        if logits.ndim != 2:
            stored = any(isinstance(callback, ResponseWriter) for callback in trainer.callbacks)  # type: ignore[attr-defined]
            if not self._warned and not stored:
                rank_zero_warn(
                    "there is no predictions.csv: it holds one class a sample, but the predictions have the shape "
                    f"{tuple(logits.shape)}; callbacks.ResponseWriter stores depth maps"
                )
            self._warned = True
            return
        confidence, prediction = logits.float().softmax(dim=1).max(dim=1)
        columns = {name: outputs[name] for name in ("index", "target") if name in outputs}
        self._batches.append({**columns, "prediction": prediction, "confidence": confidence})

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the rows of all processes and writes the table."""
        parts = [pd.DataFrame({name: values.cpu().numpy() for name, values in rows.items()}) for rows in self._batches]
        self._batches = []
        if trainer.world_size > 1:
            gathered: list[list[pd.DataFrame]] = [parts] * trainer.world_size
            dist.all_gather_object(gathered, parts)
            parts = [part for rank_parts in gathered for part in rank_parts]
        folder = run_folder(trainer)
        if not trainer.is_global_zero or folder is None or not parts:
            return
        rows = pd.concat(parts, ignore_index=True)
        if "index" in rows:
            rows = rows.drop_duplicates("index").sort_values("index")
        with atomic_write(folder / "predictions.csv") as draft:
            rows.to_csv(draft, index=False)
