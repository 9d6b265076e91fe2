"""The base of the tasks whose target has a value for each channel of the prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from distill.errors import UserError
from distill.metrics.parts.channels import with_channel
from distill.tasks.parts.resizing import LINEAR, resized
from distill.tasks.task import Task


class ChannelTask(Task, ABC):
    """Base of the tasks with D values at each position; predictions and targets are ``(N, D, *)``.

    Some of the target's values may be unknown. They count neither in the loss nor in the metrics. With one value a
    sample, a target may also have the shape ``(N,)``. Predictions of another spatial size are brought to the target's:
    smaller ones are interpolated linearly, larger ones are averaged down.

    Args:
        channels: D, the number of values at each position; None for any number.
    """

    def __init__(self, channels: int | None) -> None:
        super().__init__()
        self._channels = channels

    @abstractmethod
    def known(self, target: Tensor) -> Tensor:
        """Whether each value of the target counts, in its shape."""

    @abstractmethod
    def value_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of each value, ``(N, D, *)``; both arguments have this shape and the same type."""

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The prediction ``(N, D, *)`` in the spatial size of the target ``(N, D, *)``."""
        size = target.shape[2:]
        if prediction.ndim != target.ndim or len(size) not in LINEAR:
            return prediction  # check() says what is wrong
        return resized(prediction, size)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of each value, ``(N, D, *)``; 0 where the target is unknown."""
        prediction, target = self.at_targets(prediction, target), with_channel(target)
        known = self.known(target)
        # 0 times the loss of a prediction that is NaN would be NaN
        values = self.value_loss(torch.where(known, prediction, 0), torch.where(known, target, 0).to(prediction.dtype))
        return torch.where(known, values, 0)

    def counts(self, target: Tensor) -> Tensor:
        """1 for every known value, 0 for the others, ``(N, D, *)``."""
        return self.known(with_channel(target)).float()

    def check_shapes(self, prediction: Tensor, target: Tensor, *, model: str, data: str, takes: str) -> None:
        """Raises a ValueError unless the prediction is ``(N, D, *)`` and the target has its shape."""
        channels = "D" if self._channels is None else self._channels
        if prediction.ndim < 2 or prediction.shape[1] != (self._channels or prediction.shape[1]):
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but {takes} of shape (N, {channels})"
                f" or (N, {channels}, *)"
            )
        if with_channel(target).shape != prediction.shape:
            one = f" or ({len(prediction)},)" if prediction.shape[1:] == (1,) else ""
            raise UserError(
                f"{data}: target must have the shape of the prediction, {tuple(prediction.shape)}{one}, got "
                f"{tuple(target.shape)}"
            )
