"""The names of classes, and the probabilities that a network gives them, for any module and data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from distill.losses.parts.soft_labels import class_indices, is_labelled
from distill.outputs import full_precision
from distill.tasks import Task

SUM_TOLERANCE = 1e-2
"""How far from 1 the shares of a distribution may sum to, after half precision."""


def class_names(trainer: Trainer) -> tuple[str, ...]:
    """The names of the classes by index: those of the module's task, or those of the data; empty if unknown."""
    task = getattr(trainer.lightning_module, "task", None)
    data = trainer.datamodule  # type: ignore[attr-defined]
    return tuple(getattr(task, "class_names", None) or getattr(data, "class_names", None) or ())


def name_of(label: int, names: Sequence[str]) -> str:
    """The name of a class; its index if it has none."""
    return names[label] if label < len(names) else str(label)


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
        return None if values is None else Probabilities(full_precision(values), task.exclusive)
    if prediction.ndim < 2 or prediction.shape[1] < 2 or not prediction.is_floating_point():
        return None
    return Probabilities(full_precision(prediction).softmax(1), exclusive=True)


def class_target(
    module: LightningModule | None, prediction: Tensor, target: Tensor | None, ignore_index: int
) -> Tensor | None:
    """A target, soft labels ``(N, C)`` as the class of the highest share, ``(N,)``; others are returned unchanged.

    The module's task knows whether a target of floats is soft labels. Without a task it is, if each labelled row is a
    distribution: no share is negative, and they sum to 1.

    Args:
        module: May have a ``task``.
        prediction: The prediction for the same samples.
        target: Their target, if they have one.
        ignore_index: The class of samples without a label.
    """
    if target is None or not target.is_floating_point() or target.ndim != 2 or target.shape != prediction.shape:
        return target
    task = getattr(module, "task", None)
    if isinstance(task, Task):
        is_soft = task.exclusive and task.probabilities(prediction[:1]) is not None
    else:
        rows = target[is_labelled(target)]
        is_soft = len(rows) > 0 and bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < SUM_TOLERANCE).all())
    return class_indices(target, ignore_index) if is_soft else target


def no_classes(module: LightningModule | None) -> str | None:
    """Why a module's positions have no single true class; ``None`` if its task does not say so, or it has no task."""
    task = getattr(module, "task", None)
    return f"{type(task).__name__} has no single true class" if isinstance(task, Task) and not task.exclusive else None
