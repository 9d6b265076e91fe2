"""The names of classes, and the probabilities that a network gives them, for any module and data."""

from __future__ import annotations

from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from distill.outputs import full_precision
from distill.tasks import Task
from distill.tasks.parts.class_task import ClassTask


def class_names(trainer: Trainer) -> tuple[str, ...]:
    """The names of the classes by index: those of the module's task, or those of the data; empty if unknown."""
    task = getattr(trainer.lightning_module, "task", None)
    data = trainer.datamodule  # type: ignore[attr-defined]
    return tuple(getattr(task, "class_names", None) or getattr(data, "class_names", None) or ())


class Probabilities(NamedTuple):
    """The probability of each class, ``(N, C, *)``; ``exclusive``: each position has exactly one of the classes."""

    values: Tensor
    exclusive: bool


def probabilities_of(module: LightningModule, prediction: Tensor) -> Probabilities | None:
    """The probabilities in a prediction ``(N, C, *)``, in float32; ``None`` if it is of no classes.

    The module's task knows. Without a task, two or more channels are the logits of exclusive classes.
    """
    task = getattr(module, "task", None)
    if isinstance(task, Task):
        values = task.probabilities(prediction)
        return None if values is None else Probabilities(full_precision(values), isinstance(task, ClassTask))
    if prediction.ndim < 2 or prediction.shape[1] < 2 or not prediction.is_floating_point():
        return None
    return Probabilities(full_precision(prediction).softmax(1), exclusive=True)
