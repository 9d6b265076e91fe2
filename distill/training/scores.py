"""The scores of an evaluation stage: the task's metrics and the mean hard loss."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MeanMetric

from distill.outputs import autocast_off
from distill.tasks import Task
from distill.training.means import counts_of


class StageScores(nn.Module):
    """The metrics of a validation or a test, logged as ``<stage>/<name>``, and ``<stage>/hard``.

    Args:
        task: The task, which makes the metrics and computes the hard loss.
        stage: ``val`` or ``test``.
    """

    def __init__(self, task: Task, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.metrics = task.metrics().clone(prefix=f"{stage}/")
        self.hard = MeanMetric()

    def update(self, prediction: Tensor, target: Tensor, task: Task) -> None:
        """Adds a batch; the prediction must have one value for each position of the target."""
        self.metrics.update(prediction, target)
        with autocast_off(prediction):
            values = task.loss(prediction, target)
            self.hard.update(values, counts_of(values, target, task))

    def take(self) -> dict[str, Tensor]:
        """The scores by name, over all batches of all processes since the last call; resets the metrics.

        There are none if there was no batch with labels.
        """
        if not self.hard.update_called:
            return {}
        scores = {**self.metrics.compute(), f"{self.stage}/hard": self.hard.compute()}
        self.metrics.reset()
        self.hard.reset()
        return scores
