"""The scores of an evaluation stage: the task's metrics, the mean hard loss, and the means of other losses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from distill.batches import Batch, samples_in
from distill.distributed import all_gather_objects
from distill.outputs import autocast_off
from distill.tasks import Task
from distill.training.loaders import loader_count, loader_suffix
from distill.training.means import LossSums, add_batch, counts_of, gathered_means

STAGES = {"val": "validation", "test": "test"}


class StageScores(nn.Module):
    """The metrics of a validation or a test, logged as ``<stage>/<name>``, and ``<stage>/hard``.

    Each loader has scores of its own: :meth:`of_loader` returns those of the loaders after the first, which are logged
    as ``<stage>/<name>/<loader>``. Samples without labels have no scores. Losses that are recorded are logged in the
    same way, as means over the batches weighted by their numbers of counted samples.

    Args:
        task: The task, which makes the metrics and computes the hard loss.
        stage: ``val`` or ``test``.
    """

    def __init__(self, task: Task, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.monitor = task.monitor
        self.make_metrics(task)
        self.hard = _WeightedMean()
        self._losses: LossSums = {}

    def make_metrics(self, task: Task) -> None:
        """Makes the metrics of the task, also after its classes have got other names."""
        self.metrics = task.metrics().clone(prefix=f"{self.stage}/")
        self._others = nn.ModuleList()

    def of_loader(self, number: int) -> StageScores:
        """The scores of a loader, by its number from 0."""
        while len(self._others) < number:
            scores = copy.deepcopy(self)
            scores._others = nn.ModuleList()
            scores.reset()
            self._others.append(scores)
        return cast(StageScores, self._others[number - 1]) if number else self

    def update(self, prediction: Tensor, batch: Batch, task: Task) -> None:
        """Adds a batch, if it has labels; the prediction must have one value for each position of the target."""
        if "target" not in batch or not samples_in(batch):
            return
        target = batch["target"]
        self.metrics.update(prediction, target)
        with autocast_off(prediction):
            values = task.loss(prediction, target)
            self.hard.update(values, counts_of(values, target, task))

    def record(self, losses: Mapping[str, Tensor], batch: Batch, teacher_inputs: Sequence[str] = ()) -> None:
        """Adds the losses of a batch by name, each a scalar; see :func:`~distill.training.means.add_batch`."""
        add_batch(self._losses, losses, batch, teacher_inputs)

    def take(self) -> dict[str, Tensor]:
        """The scores by name, over all batches of all processes since the last call; resets them."""
        sums = {name: (float(total), count) for name, (total, count) in self._losses.items()}
        gathered = all_gather_objects((sums, self.hard.update_called))
        means = gathered_means([sums for sums, _ in gathered])
        scores = {f"{self.stage}/{name}": value for name, value in means.items()}
        if any(labelled for _, labelled in gathered):  # all processes or none: compute() waits for the others
            scores |= {**self.metrics.compute(), f"{self.stage}/hard": self.hard.compute()}
        else:
            rank_zero_warn(
                f"the {STAGES[self.stage]} batches have no 'target', so there are no scores and no hard loss"
            )
        self.reset()
        return scores

    def log(self, module: LightningModule) -> None:
        """Logs what :meth:`take` returns for each loader; the task's monitor is also shown in the progress bar."""
        for number in range(loader_count(module.trainer, self.stage)):  # the same in all processes, which take together
            suffix = loader_suffix(module.trainer, self.stage, number)
            for name, value in self.of_loader(number).take().items():
                # all processes already have the same value; without sync_dist Lightning would warn that they may differ
                module.log(f"{name}{suffix}", value.float(), prog_bar=name + suffix == self.monitor, sync_dist=True)

    def reset(self) -> None:
        """Forgets all batches of this loader."""
        self.metrics.reset()
        self.hard.reset()
        self._losses = {}


class _WeightedMean(MeanMetric):
    """A mean that is NaN if a value is; torchmetrics leaves NaN out, or the weights with ``nan_strategy="disable"``."""

    def update(self, value: Tensor, weight: Tensor) -> None:  # type: ignore[override]
        """Adds values and their weights, of one shape."""
        self.mean_value += (value * weight).sum()
        self.weight += weight.sum()
