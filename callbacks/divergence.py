"""The divergence of teacher and student in every epoch: of their inputs, their outputs, and the parts of these."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from callbacks.parts.classes import no_classes
from callbacks.parts.comparison import InputDivergence, OutputDivergences, float64_device
from callbacks.parts.evaluation import EvaluationCallback, Split, log_reduced
from callbacks.parts.figures import divergence_figure, publish
from callbacks.parts.run_folder import run_folder
from callbacks.parts.step import Step
from distill.atomic import atomic_write
from distill.checks import check_at_least, check_positive
from distill.distributed import all_gather_objects, rank_part

TRAIN = Split("train")
COLUMNS = ("epoch", "stage", "cmd", "cmd_target", "cmd_nontarget", "tcjsd", "ncjsd", "input_cmd")


class DivergenceTracker(EvaluationCallback):
    """Measures the divergence of the predictions of teacher and student in every epoch.

    For each stage ``train``, ``val`` and ``test``, it logs over all samples or pixels with a label:

    - ``<stage>/cmd``: central moment discrepancy (CMD) of the output probabilities (PSSM, Table 1);
    - ``<stage>/cmd_target``, ``<stage>/cmd_nontarget``: CMD of two parts of these, ``[p_t, 1 - p_t]`` for the target
      class t, and the softmax over the other classes (PSSM, Fig. 7, Table 7);
    - ``<stage>/tcjsd``, ``<stage>/ncjsd``: Jensen-Shannon divergences of the same two parts in nats (NTDH, eqs. 5, 6);
    - ``train/input_cmd``: CMD of the inputs of the two models, in the first epoch only, with un-normalised moments
      (PSSM, Table 1). Inputs with the same number of values are compared value by value. Images of one size with
      different channels are compared by the mean over their channels. Other inputs are not compared.

    All data come from what the steps return, of any LightningModule (``docs/callbacks.md``); no model runs again. Each
    further loader has values of its own, ``val/ncjsd/<name>``. The numbers are exact, whatever the batches and the
    number of processes are. Those of training compare each batch with the student of its step.

    In the run's folder, ``divergence.csv`` has a row for each epoch and stage of the fit. A resumed fit continues the
    rows of its checkpoint, also within an epoch. At the end of the fit, the rows are drawn as
    ``figures/divergence.png``, and in TensorBoard if that is a logger. ``validate`` and ``test`` log and write no file.

    If there is no teacher, or the predictions are not logits of classes, one warning says so and nothing is measured.

    Args:
        temperature: The logits of both models are divided by this.
        moments: K, the highest moment of the CMD; 5 in Zellinger et al. (ICLR 2017).
        every_n_batches: Only every n-th training batch is compared.
        max_positions: The approximate number of positions of a dense prediction or an input that are compared, on an
            even grid; ``None`` compares all. The CMD of inputs grows with the number of values compared.

    Raises:
        ValueError: An argument is out of its range.
    """

    logged = COLUMNS[2:7]

    def __init__(
        self,
        temperature: float = 1.0,
        moments: int = 5,
        every_n_batches: int = 1,
        max_positions: int | None = 1024,
    ) -> None:
        check_positive(temperature=temperature)
        check_at_least(1, moments=moments, every_n_batches=every_n_batches, max_positions=max_positions)
        self.temperature = temperature
        self.moments = moments
        self.every_n_batches = every_n_batches
        self.max_positions = max_positions
        self._open: dict[str, OutputDivergences] = {}
        self._inputs: InputDivergence | None = None
        self._rows: list[dict[str, Any]] = []
        self._resumed: dict[str, Any] = {}
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets an earlier fit, except the epochs that this one continues; a checkpoint is loaded after this."""
        if stage == "fit":
            self._resumed = {}
            self._rows = [row for row in self._rows if row["epoch"] < trainer.current_epoch]

    def state_dict(self) -> dict[str, Any]:
        """The rows of all epochs, and the sums of each process in an epoch that has not ended."""
        parts = {"train": self._open.get("train"), "inputs": self._inputs}
        compared = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return {"rows": [dict(row) for row in self._rows], "compared": all_gather_objects(compared)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the rows and sums of a checkpoint."""
        self._rows = [dict(row) for row in state_dict["rows"]]
        self._resumed = rank_part(state_dict.get("compared", [{}]), {})  # older checkpoints lack it

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the run's folder."""
        self._folder = run_folder(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to compare the inputs, unless a resumed fit has done so, and continues the sums of a checkpoint."""
        done = any(row["input_cmd"] is not None for row in self._rows)
        self._inputs = (
            None if done else InputDivergence(self.moments, self.max_positions, float64_device(pl_module.device))
        )
        self._open.pop("train", None)
        if "train" in self._resumed:
            self._open["train"] = self._new_divergences(pl_module)
            self._open["train"].load_state_dict(self._resumed["train"])
        if "inputs" in self._resumed and self._inputs is not None:
            self._inputs.load_state_dict(self._resumed["inputs"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the batches of an earlier epoch."""
        self._open.pop("train", None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compares the two predictions, and in the first epoch the inputs."""
        step = None if batch_idx % self.every_n_batches else self._read(pl_module, outputs, batch, training=True)
        pairs = None if step is None else self._compare(TRAIN, pl_module, step)
        if pairs is None or self._inputs is None:
            return
        if self._inputs.comparable and pairs.inputs and pairs.teacher_inputs:
            self._add_inputs(self._inputs, pairs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch and writes ``divergence.csv``."""
        values = self._log(TRAIN, trainer, pl_module)
        if values is not None:
            self._keep(TRAIN, trainer, values, self._close_inputs(trainer, pl_module))
        if self._rows and trainer.is_global_zero and self._folder is not None:
            self._write(self._folder / "divergence.csv")

    def start(self, split: Split) -> None:
        """Forgets the batches of an earlier epoch."""
        self._open.pop(split.label, None)

    def add(self, split: Split, trainer: Trainer, pl_module: LightningModule, step: Step) -> None:
        """Compares the two predictions."""
        self._compare(split, pl_module, step)

    def close(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch."""
        values = self._log(split, trainer, pl_module)
        if values is not None and trainer.state.fn == TrainerFn.FITTING:
            self._keep(split, trainer, values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the curves over all epochs."""
        if not trainer.is_global_zero or self._folder is None or not self._rows:
            return
        publish(divergence_figure(self._rows), "divergence", self._folder, trainer)

    def _compare(self, split: Split, pl_module: LightningModule, step: Step) -> Step | None:
        """Adds a batch; returns its samples that have a teacher, ``None`` if there are none or they have no classes."""
        obstacle = no_classes(pl_module) or _obstacle(step)
        if obstacle is not None:
            self._warn_once(f"{self.idle}: {obstacle}")
            return None
        step = step.with_teacher()
        if not len(step.prediction):
            return None
        assert step.teacher_prediction is not None
        assert step.target is not None
        if split.label not in self._open:
            self._open[split.label] = self._new_divergences(pl_module)
        self._open[split.label].add(step.prediction, step.teacher_prediction, step.target, step.ignore_index)
        return step

    def _add_inputs(self, divergence: InputDivergence, step: Step) -> None:
        divergence.add(step.inputs, step.teacher_inputs)
        if not divergence.comparable:
            shapes = [
                ", ".join(str(tuple(tensor.shape[1:])) for tensor in inputs)
                for inputs in (step.inputs, step.teacher_inputs)
            ]
            rank_zero_info(
                f"there is no train/input_cmd: a sample has the shape {shapes[0]} for the student and {shapes[1]} for "
                "the teacher, which cannot be compared"
            )

    def _new_divergences(self, pl_module: LightningModule) -> OutputDivergences:
        return OutputDivergences(self.temperature, self.moments, self.max_positions, float64_device(pl_module.device))

    def _log(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> dict[str, float] | None:
        own = self._open.pop(split.label, None)
        # a process without a batch must take part in the sums of the others
        if not trainer.strategy.reduce_boolean_decision(own is not None, all=False):
            return None
        values = (own or self._new_divergences(pl_module)).compute()
        log_reduced(pl_module, {split.key(name): value for name, value in values.items()})
        return values

    def _close_inputs(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        inputs, self._inputs = self._inputs, None
        compared = inputs is not None and inputs.comparable and not inputs.is_empty
        if inputs is None or not trainer.strategy.reduce_boolean_decision(compared):
            return None
        input_cmd = inputs.compute()
        log_reduced(pl_module, {"train/input_cmd": input_cmd})
        return input_cmd

    def _keep(self, split: Split, trainer: Trainer, values: dict[str, float], input_cmd: float | None = None) -> None:
        epoch, stage = trainer.current_epoch, split.label
        row = {"epoch": epoch, "stage": stage, **values, "input_cmd": input_cmd}
        others = [row for row in self._rows if (row["epoch"], row["stage"]) != (epoch, stage)]
        self._rows = sorted([*others, row], key=lambda row: (row["epoch"], row["stage"]))

    def _write(self, path: Path) -> None:
        with atomic_write(path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self._rows)


def _obstacle(step: Step) -> str | None:
    """Why the predictions of a step cannot be compared; ``None`` if they can."""
    student, teacher, target = step.prediction, step.teacher_prediction, step.target
    if teacher is None:
        return "the steps return no teacher_prediction, as there is no teacher"
    if target is None:
        return "the batches have no target"
    if target.is_floating_point() or student.ndim < 2 or student.shape[1] < 2:
        return "the predictions are not logits of two or more classes"
    if student.shape != teacher.shape or target.shape != (len(student), *student.shape[2:]):
        return (
            f"the shapes of the student's logits {tuple(student.shape)}, the teacher's {tuple(teacher.shape)} and the "
            f"target {tuple(target.shape)} do not belong together"
        )
    return None
