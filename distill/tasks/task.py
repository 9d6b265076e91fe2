"""The base class of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torchmetrics import MetricCollection


class Task(nn.Module, ABC):
    """A kind of prediction, with its hard loss and its metrics.

    ``monitor`` is the logged metric that ranks checkpoints; ``mode`` is ``max`` if a higher value is better, else
    ``min``. Positions with the target ``ignore_index`` count neither in the loss nor in the metrics. ``class_names``
    holds the names of the classes by index; it is empty if they are unknown, or if there are no classes.
    """

    monitor: str
    mode: str
    ignore_index: int
    class_names: tuple[str, ...] = ()

    def check_network(self, network: nn.Module, *, model: str) -> None:
        """Raises a one-sentence :class:`ValueError` if a network to train was built for other predictions."""

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The prediction resized to one value for each position of the target."""
        return prediction

    def probabilities(self, prediction: Tensor) -> Tensor | None:
        """The probability of each class, in the shape of the prediction; None if the task has no classes."""
        return None

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The hard loss of every sample or pixel, unreduced, ``(N, *spatial)``."""

    @abstractmethod
    def counts(self, target: Tensor) -> Tensor:
        """The weight of each position in a mean over positions, ``(N, *spatial)``; 0 for ignored positions."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """New metrics for a stage; they take a prediction and a target."""

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a one-sentence :class:`ValueError` if a label is not one of the task's classes.

        Args:
            target: The target of a batch.
            data: The name of the data, for the message.
            index: The samples' positions in their data set, ``(N,)``, if they are known.
        """

    @abstractmethod
    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a one-sentence :class:`ValueError` if a prediction or a target does not fit this task.

        Args:
            prediction: The prediction for a batch, in the size of the target.
            target: The target of the batch.
            model: The name of the network, for the message.
            data: The name of the data, for the message.
        """
