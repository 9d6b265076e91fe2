"""The confusion matrix of a validation or a test: how often each class is taken for each other class."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.parts.classes import class_names, no_classes
from callbacks.parts.confusion_figures import confusion_figure
from callbacks.parts.evaluation import EvaluationCallback, Split
from callbacks.parts.figures import publish
from callbacks.parts.run_folder import run_folder
from callbacks.parts.step import Step
from distill.atomic import atomic_write
from distill.distributed import all_gather_objects, gather

MOST_CLASSES = 2000
"""With more classes a matrix would have millions of cells, which nobody can read."""

Counts = dict[str, Tensor]
"""The number of positions by true class and predicted class, ``(C, C)``, by the name of the network."""


class ConfusionMatrix(EvaluationCallback):
    """Counts and draws which classes a network takes for which others, over a whole validation or test.

    Works with any module whose steps return ``prediction``, logits ``(N, C, *)``, and whose batches hold ``target``,
    class indices ``(N, *)`` or soft labels ``(N, C)``, whose highest share is the class. If the steps return
    ``teacher_prediction`` of the same shape as well, teacher and student stand side by side. Pixels, points and voxels
    count like samples. Counts are whole numbers, summed over all processes, so they are exact.

    It writes ``figures/confusion_<stage>.png`` to the run's folder, with the share of each true class in its row, and
    the counts as ``confusion_<stage>.csv``, which has a line for each network and true class. The stage is ``val`` for
    the last validation of a fit, ``validate`` or ``test``; several loaders have their names behind it. TensorBoard
    shows the picture if that is a logger. The names of the classes are those of the task or of the data.

    If the predictions and the targets are not those of classes, one warning says so and nothing is drawn.
    """

    idle = "draws nothing"

    def __init__(self) -> None:
        self._counts: dict[Split, Counts] = {}
        self._sums: dict[Split, Counts] = {}
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run's folder."""
        self._folder = run_folder(trainer)

    def start(self, split: Split) -> None:
        """Forgets the batches of an earlier epoch."""
        self._counts[split] = {}

    def add(self, split: Split, trainer: Trainer, pl_module: LightningModule, step: Step) -> None:
        """Counts a batch."""
        obstacle = no_classes(pl_module) or _obstacle(step)
        if obstacle is not None:
            self._warn_once(f"{self.idle}: {obstacle}")
            return
        self._count(split, "network" if step.teacher_prediction is None else "student", step, step.prediction)
        paired = step.with_teacher()
        if paired.teacher_prediction is None:
            return
        if paired.teacher_prediction.shape == paired.prediction.shape:
            self._count(split, "teacher", paired, paired.teacher_prediction)
        else:
            self._warn_once(
                f"counts the student alone: its predictions have the shape {tuple(paired.prediction.shape)} and the "
                f"teacher's {tuple(paired.teacher_prediction.shape)}"
            )

    def close(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the counts of all processes; outside of a fit, draws them."""
        self._sums[split] = _summed(self._counts.pop(split, {}), pl_module.device)
        if trainer.state.fn != TrainerFn.FITTING:
            self._draw(split, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last validation of the fit."""
        for split in list(self._sums):
            self._draw(split, trainer)

    def _count(self, split: Split, network: str, step: Step, prediction: Tensor) -> None:
        assert step.target is not None
        target = step.target
        # a class that is the highest only because another logit is NaN is no prediction
        classes = prediction.shape[1]
        is_class = (target >= 0) & (target < classes)
        others = target[~is_class & (target != step.ignore_index)]
        if len(others):
            self._warn_once(
                f"leaves out targets that are none of the {classes} classes, such as {int(others[0])}: return their "
                "number as ignore_index"
            )
        counted = is_class & (target != step.ignore_index) & (prediction.amax(1) > -torch.inf)
        cells = classes * target[counted] + prediction.argmax(1)[counted]
        counts = torch.bincount(cells, minlength=classes**2).view(classes, classes)
        earlier = self._counts[split].get(network)
        self._counts[split][network] = counts if earlier is None else earlier + counts

    def _draw(self, split: Split, trainer: Trainer) -> None:
        counts = {network: matrix.cpu().numpy() for network, matrix in self._sums.pop(split).items()}
        if not counts or self._folder is None or not trainer.is_global_zero:
            return
        stage = "validate" if trainer.state.fn == TrainerFn.VALIDATING else split.stage
        name = f"confusion_{stage}{split.file_suffix}"
        names = class_names(trainer)
        publish(confusion_figure(counts, names), name, self._folder, trainer)
        _write(self._folder / f"{name}.csv", counts, names)


def _obstacle(step: Step) -> str | None:
    """Why a batch has no classes to count; None if it has."""
    prediction, target = step.prediction, step.target
    if target is None:
        return "the batches have no target"
    if prediction.ndim < 2 or prediction.shape[1] < 2:
        return f"predictions of shape {tuple(prediction.shape)} are not the logits of two or more classes"
    if target.is_floating_point() or target.shape != (len(prediction), *prediction.shape[2:]):
        return (
            f"the target must hold one class index for each position, but it is {target.dtype} of shape "
            f"{tuple(target.shape)} for predictions of shape {tuple(prediction.shape)}"
        )
    if prediction.shape[1] > MOST_CLASSES:
        return f"there are {prediction.shape[1]} classes, more than {MOST_CLASSES}"
    return None


def _summed(own: Counts, device: torch.device) -> Counts:
    """The sums over all processes. Some may have no batch, but all must call this."""
    sizes: dict[str, int] = {}
    for of_process in all_gather_objects({network: len(counts) for network, counts in own.items()}):
        sizes |= of_process
    none = {network: torch.zeros(size, size, dtype=torch.int64, device=device) for network, size in sizes.items()}
    # the teacher first, in every process in the same order
    return {network: gather(own.get(network, none[network])[None]).sum(0) for network in sorted(none, reverse=True)}


def _write(path: Path, counts: Mapping[str, Any], names: tuple[str, ...]) -> None:
    with atomic_write(path) as draft, draft.open("w", newline="") as file:
        writer = csv.writer(file)
        classes = len(next(iter(counts.values())))
        columns = names if len(names) == classes else tuple(map(str, range(classes)))
        writer.writerow(["network", "true class", *columns])
        for network, matrix in counts.items():
            writer.writerows([network, name, *row] for name, row in zip(columns, matrix.tolist(), strict=True))
