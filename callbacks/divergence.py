"""How far teacher and student are apart, epoch by epoch: in their inputs, outputs, and the parts of their outputs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.parts.comparison import InputDivergence, OutputDivergences, float64_device
from callbacks.parts.evaluation import EvaluationCallback
from callbacks.parts.figures import divergence_figure, publish
from distill.atomic import atomic_write
from distill.distributed import all_gather_objects, rank_part
from distill.errors import UserError

COLUMNS = ("epoch", "stage", "cmd", "cmd_target", "cmd_nontarget", "tcjsd", "ncjsd", "input_cmd")


class DivergenceTracker(EvaluationCallback):
    """Measures in every epoch how far the predictions of teacher and student are apart.

    Logged for each stage ``train``, ``val`` and ``test``, over all samples or pixels with a label:

    - ``<stage>/cmd``: central moment discrepancy (CMD) of the output probabilities (PSSM, Table 1);
    - ``<stage>/cmd_target``, ``<stage>/cmd_nontarget``: CMD of their parts, the probability of the target class
      against that of all others, ``[p_t, 1 - p_t]``, and the probabilities among the others (PSSM, Fig. 7, Table 7);
    - ``<stage>/tcjsd``, ``<stage>/ncjsd``: Jensen-Shannon divergences of the same two parts in nats (NTDH, eqs. 5, 6);
    - ``train/input_cmd``: CMD of what the two models see, in the first epoch only, with un-normalised moments (PSSM,
      Table 1). Inputs with equally many values are compared value by value, images of one size with different
      channels by the mean over their channels; others are left out.

    All of it comes from what the steps return, no model runs again. The numbers are exact however the data are split
    into batches and over processes. Training's are those of the moving student, of the batches as they passed.

    In the run's folder, ``divergence.csv`` has one row an epoch and stage of the fit. A fit that is resumed goes on
    below the rows that its checkpoint knows, also in the middle of an epoch. At the end of the fit the rows are drawn
    as ``figures/divergence.png``, and for TensorBoard where that is a logger. ``validate`` and ``test`` log, and write
    no file.

    Nothing is measured, with one warning, where there is no teacher or predictions are not logits of classes.

    Args:
        temperature: The logits of both models are divided by this.
        moments: K, the highest moment of the CMD; 5 in Zellinger et al. (ICLR 2017).
        every_n_batches: Of the training batches, only every n-th is compared.
        max_positions: Of dense predictions and of inputs, about so many positions an image are compared, on an even
            grid; all with ``None``. The CMD of inputs grows with the number of values compared.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        moments: int = 5,
        every_n_batches: int = 1,
        max_positions: int | None = 1024,
    ) -> None:
        if not temperature > 0:
            raise UserError(f"temperature must be positive, got {temperature}")
        if moments < 1:
            raise UserError(f"moments must be at least 1, got {moments}")
        if every_n_batches < 1:
            raise UserError(f"every_n_batches must be at least 1, got {every_n_batches}")
        if max_positions is not None and max_positions < 1:
            raise UserError(f"max_positions must be at least 1 or None, got {max_positions}")
        self.temperature = temperature
        self.moments = moments
        self.every_n_batches = every_n_batches
        self.max_positions = max_positions
        self._open: dict[str, OutputDivergences] = {}
        self._inputs: InputDivergence | None = None
        self._rows: list[dict[str, Any]] = []
        self._compared: dict[str, Any] = {}
        self._folder: Path | None = None
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets a former fit, but for the epochs on which this one builds; a checkpoint is loaded after this."""
        if stage == "fit":
            self._compared = {}
            self._rows = [row for row in self._rows if row["epoch"] < trainer.current_epoch]

    def state_dict(self) -> dict[str, Any]:
        """The rows of the epochs so far, and what each process has compared in one that has not ended."""
        parts = {"train": self._open.get("train"), "inputs": self._inputs}
        compared = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return {"rows": [dict(row) for row in self._rows], "compared": all_gather_objects(compared)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on below the rows of a checkpoint."""
        self._rows = [dict(row) for row in state_dict["rows"]]
        self._compared = rank_part(state_dict.get("compared", [{}]), {})  # older ones lack it

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the run's folder, on all processes as Lightning asks for."""
        folder = None if trainer.fast_dev_run else trainer.log_dir  # type: ignore[attr-defined]
        self._folder = None if folder is None else Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks for the inputs' divergence, unless a fit that goes on knows it; goes on with what was compared."""
        known = any(row["input_cmd"] is not None for row in self._rows)
        self._inputs = (
            None if known else InputDivergence(self.moments, self.max_positions, float64_device(pl_module.device))
        )
        self._open.pop("train", None)
        if "train" in self._compared:
            self._open["train"] = self._fresh(pl_module)
            self._open["train"].load_state_dict(self._compared["train"])
        if "inputs" in self._compared and self._inputs is not None:
            self._inputs.load_state_dict(self._compared["inputs"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts anew."""
        self._open.pop("train", None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compares the two predictions, and in the first epoch what they were made from."""
        if batch_idx % self.every_n_batches:
            return
        if self._add("train", pl_module, outputs, batch) and self._inputs is not None and self._inputs.comparable:
            self._add_inputs(self._inputs, outputs["inputs"], outputs["teacher_inputs"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch and writes ``divergence.csv``."""
        values = self._close("train", trainer, pl_module)
        if values is None:
            return
        self._keep("train", trainer, values, self._close_inputs(trainer, pl_module))
        if trainer.is_global_zero and self._folder is not None:
            self._write(self._folder / "divergence.csv")

    def start(self, stage: str) -> None:
        """Starts anew."""
        self._open.pop(stage, None)

    def add(self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """Compares the two predictions."""
        self._add(stage, pl_module, outputs, batch)

    def close(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch."""
        values = self._close(stage, trainer, pl_module)
        if values is not None and trainer.state.fn == TrainerFn.FITTING:
            self._keep(stage, trainer, values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws all epochs."""
        if not trainer.is_global_zero or self._folder is None or not self._rows:
            return
        publish(divergence_figure(self._rows), "divergence", self._folder, trainer)

    def _add(self, stage: str, pl_module: LightningModule, outputs: Any, batch: Any) -> bool:
        if not outputs:  # Lightning's answer to a step that was skipped
            return False
        obstacle = _obstacle(outputs, batch)
        if obstacle is not None:
            if not self._warned:
                rank_zero_warn(f"DivergenceTracker measures nothing: {obstacle}")
            self._warned = True
            return False
        if stage not in self._open:
            self._open[stage] = self._fresh(pl_module)
        self._open[stage].add(
            outputs["prediction"], outputs["teacher_prediction"], batch["target"], outputs["ignore_index"]
        )
        return True

    def _add_inputs(self, inputs: InputDivergence, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> None:
        inputs.add(student, teacher)
        if not inputs.comparable:
            shapes = [", ".join(str(tuple(tensor.shape[1:])) for tensor in seen) for seen in (student, teacher)]
            rank_zero_info(
                f"there is no train/input_cmd: a sample has the shape {shapes[0]} for the student and {shapes[1]} for "
                "the teacher, which cannot be compared"
            )

    def _fresh(self, pl_module: LightningModule) -> OutputDivergences:
        return OutputDivergences(self.temperature, self.moments, self.max_positions, float64_device(pl_module.device))

    def _close(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> dict[str, float] | None:
        own = self._open.pop(stage, None)
        # a process without a batch must take part in the sums of the others
        if not trainer.strategy.reduce_boolean_decision(own is not None, all=False):
            return None
        values = (own or self._fresh(pl_module)).compute()
        _log(pl_module, {f"{stage}/{name}": value for name, value in values.items()})
        return values

    def _close_inputs(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        inputs, self._inputs = self._inputs, None
        if inputs is None or not trainer.strategy.reduce_boolean_decision(inputs.comparable):
            return None
        input_cmd = inputs.compute()
        _log(pl_module, {"train/input_cmd": input_cmd})
        return input_cmd

    def _keep(self, stage: str, trainer: Trainer, values: dict[str, float], input_cmd: float | None = None) -> None:
        epoch = trainer.current_epoch
        row = {"epoch": epoch, "stage": stage, **values, "input_cmd": input_cmd}
        others = [row for row in self._rows if (row["epoch"], row["stage"]) != (epoch, stage)]
        self._rows = sorted([*others, row], key=lambda row: (row["epoch"], row["stage"]))

    def _write(self, path: Path) -> None:
        with atomic_write(path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self._rows)


def _log(pl_module: LightningModule, values: dict[str, float]) -> None:
    # equal on all processes already: sync_dist only tells Lightning not to warn
    pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)


def _obstacle(outputs: Any, batch: Any) -> str | None:
    """Why the predictions of a step cannot be compared, if so."""
    if not isinstance(outputs, Mapping) or "teacher_prediction" not in outputs:
        return "the steps return no teacher_prediction, as there is no teacher"
    if "target" not in batch:
        return "the batches have no target"
    student, teacher, target = outputs["prediction"], outputs["teacher_prediction"], batch["target"]
    if target.is_floating_point() or student.ndim < 2 or student.shape[1] < 2:
        return "the predictions are not logits of two or more classes"
    if student.shape != teacher.shape or target.shape != (len(student), *student.shape[2:]):
        return (
            f"the shapes of the student's logits {tuple(student.shape)}, the teacher's {tuple(teacher.shape)} and the "
            f"target {tuple(target.shape)} do not belong together"
        )
    return None
