"""The base class of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from distill.errors import UserError


class Task(nn.Module, ABC):
    """A kind of prediction, with its hard loss and its metrics.

    A subclass needs :meth:`loss` alone. The other methods have defaults: predictions keep their size, all samples count
    unless their target is ``ignore_index``, and the hard loss of the validation picks the best epoch.

    ``monitor`` is the logged metric that ranks checkpoints; ``mode`` is ``max`` if a higher value is better, else
    ``min``. Positions with the target ``ignore_index`` count neither in the loss nor in the metrics. ``class_names``
    holds the names of the classes by index; it is empty if they are unknown, or if there are no classes.
    ``named_by_data`` tells that they come from a data module, and change with it. ``exclusive`` is false where a
    position may have several of the classes, or none.
    """

    monitor: str = "val/hard"
    mode: str = "min"
    ignore_index: int = 255
    class_names: tuple[str, ...] = ()
    named_by_data: bool = False
    exclusive: bool = True

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
        """The hard loss of every sample or position, unreduced.

        Args:
            prediction: The prediction for a batch, in the size of the target.
            target: The target of the batch.

        Returns:
            One value a sample, ``(N,)``, one a position, ``(N, *)``, or one for each channel of it, ``(N, D, *)``.
        """

    def counts(self, target: Tensor) -> Tensor:
        """The weight of each value of the loss in a mean, in the shape of the loss; 0 where it does not count.

        By default 1 for each whole number in the target that is not ``ignore_index``, and 1 for each float. Where the
        loss has fewer dims, as with one value for a sample with several targets, a value counts if one of its targets
        does.
        """
        if target.is_floating_point():
            return torch.ones_like(target)
        return (target != self.ignore_index).float()

    def metrics(self) -> MetricCollection:
        """New metrics for a stage; they take a prediction and a target. None by default."""
        return MetricCollection({})

    def check_labels(self, target: Tensor, *, data: str, index: Tensor | None = None) -> None:
        """Raises a one-sentence :class:`ValueError` if a label is not one of the task's classes.

        Args:
            target: The target of a batch.
            data: The name of the data, for the message.
            index: The samples' positions in their data set, ``(N,)``, if they are known.
        """

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a one-sentence :class:`ValueError` if a prediction or a target does not fit this task.

        By default it tries the loss and the counts, whose shapes must fit.

        Args:
            prediction: The prediction for a batch, in the size of the target.
            target: The target of the batch.
            model: The name of the network, for the message.
            data: The name of the data, for the message.
        """
        given = (
            f"the prediction of the {model}, {prediction.dtype} of shape {tuple(prediction.shape)}, and the target of "
            f"the {data}, {target.dtype} of shape {tuple(target.shape)}"
        )
        try:
            loss, counts = self.loss(prediction, target), self.counts(target)
        except (RuntimeError, IndexError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{type(self).__name__} has no loss for {given}: {reason}") from error
        fitting = (counts.shape[: loss.ndim], counts.shape[:1] + counts.shape[2:])  # or one value for all channels
        if loss.ndim and loss.shape not in fitting:
            raise UserError(
                f"the loss of {type(self).__name__} has the shape {tuple(loss.shape)} and its counts have "
                f"{tuple(counts.shape)} for {given}: give both one value a sample or position"
            )
