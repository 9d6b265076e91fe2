"""What every weighting of samples or pixels is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from distill.errors import UserError
from distill.outputs import Batch


class FittedMethod(Protocol):
    """What a weighting needs of the method that it serves, when a fit begins."""

    @property
    def trainer(self) -> Trainer:
        """The trainer of the fit."""

    @property
    def device(self) -> torch.device:
        """Where the batches go."""

    def teacher_prediction(self, batch: Batch) -> Tensor:
        """The teacher's logits for a batch, ``(N, C, *)``."""

    def reference_student(self, checkpoint: str | Path) -> ReferenceStudent:
        """A frozen copy of the student with other weights."""


class ReferenceStudent(Protocol):
    """A student that was trained without distillation, as a weighting asks it."""

    @property
    def dtype(self) -> str | torch.dtype:
        """The type of its weights."""

    def predict(self, batch: Batch) -> Tensor:
        """Its logits for a batch, ``(N, C, *)``."""

    def _apply(self, fn: Any) -> Any: ...


class SampleWeighting(nn.Module, ABC):
    """Weights of 0 or more, without gradient, that multiply the unreduced value of any logit loss.

    ``ignore_index`` is the target of positions to ignore; a method sets it to its task's.
    """

    ignore_index: int

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The weight of every sample or pixel.

        Args:
            student: The student's logits, ``(N, C, *)``.
            teacher: The teacher's logits, of the same shape.
            batch: What they were made from; ``target`` holds class indices, ``(N, *)``.

        Returns:
            ``(N, *)``, detached; 1 at ignored positions, where the loss is 0 anyway.
        """

    def begin_fit(self, method: FittedMethod) -> None:
        """Called once before the first step of a fit, or of the part of a fit that is resumed."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, counted from 0, of a fit of so many; -1 where their number is open."""


def check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises a ValueError unless the value is one of those there are."""
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Raises a ValueError unless the value lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} must lie in [0, 1], got {value}")
