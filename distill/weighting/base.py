"""The base class of all weightings of samples or pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from distill.checkpoint import Weights
from distill.outputs import Batch


class FittedMethod(Protocol):
    """The part of a method that a weighting uses when a fit begins."""

    @property
    def trainer(self) -> Trainer:
        """The trainer of the fit."""

    @property
    def teacher_inputs(self) -> tuple[str, ...]:
        """The names of the modalities that the teacher sees."""

    @property
    def device(self) -> torch.device:
        """The device of the batches."""

    def teacher_prediction(self, batch: Batch) -> Tensor:
        """The teacher's logits for a batch, ``(N, C, *)``."""

    def reference_student(self, checkpoint: Weights | str | Path) -> ReferenceStudent:
        """A frozen copy of the student with other weights, a module."""


class ReferenceStudent(Protocol):
    """The part of a student trained without distillation that a weighting uses."""

    @property
    def dtype(self) -> str | torch.dtype:
        """The type of the student's weights."""

    def predict(self, batch: Batch) -> Tensor:
        """The student's logits for a batch, ``(N, C, *)``."""


class SampleWeighting(nn.Module, ABC):
    """Weights of 0 or more, without gradient, that multiply the unreduced values of any logit loss.

    ``ignore_index`` is the target value of ignored positions; a method sets it to the value of its task.

    A fit logs the share of the counted positions with a weight below 1 in each epoch, as
    ``weighting/<name of the attribute>_share``, and warns once if a whole epoch has no other weight than 1.
    """

    ignore_index: int

    @property
    def is_active(self) -> bool:
        """Whether it is meant to change weights in this epoch, so that a fit warns if it changes none."""
        return True

    @property
    def usual_cause(self) -> str:
        """Why it mostly changes no weight, for that warning: the end of a sentence; empty if nothing is known."""
        return ""

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The weight of every sample or pixel.

        Args:
            student: The student's logits, ``(N, C, *)``.
            teacher: The teacher's logits, of the same shape.
            batch: The batch of these logits; ``target`` holds class indices, ``(N, *)``.

        Returns:
            ``(N, *)``, detached; 1 at ignored positions, where the loss is 0 anyway.
        """

    def begin_fit(self, method: FittedMethod) -> None:
        """Called once before the first step of a new or resumed fit."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch.

        Args:
            epoch: The number of the epoch, from 0.
            epochs: The number of epochs of the fit; -1 if it is unknown.
        """
