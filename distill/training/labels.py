"""Checks the classes and labels of the data against the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from distill.batches import described
from distill.errors import UserError, UserKeyError, UserTypeError
from distill.outputs import Batch
from distill.tasks import Task
from distill.training.scores import StageScores


def class_names(trainer: Trainer | None) -> Sequence[str]:
    """The names of the data's classes by index; empty if the data have no names."""
    data = None if trainer is None else trainer.datamodule  # type: ignore[attr-defined]
    return tuple(getattr(data, "class_names", ()))


def known_class_names(trainer: Trainer | None, task: Task | None) -> Sequence[str]:
    """The names of the data's classes by index, or those of the task; empty if neither has names."""
    return class_names(trainer) or getattr(task, "class_names", ())


def name_classes(trainer: Trainer | None, task: Task, *scores: StageScores | None) -> None:
    """Gives a task of classes without names of its own those of the data, and its scores the names of the classes.

    Args:
        trainer: Has the data.
        task: Changed in place.
        scores: The scores of the task; changed in place.

    Raises:
        ValueError: The task has names of its own, which are those of the data in another order.
    """
    names = tuple(class_names(trainer))
    if len(set(names)) != getattr(task, "num_classes", None) or names == task.class_names:
        return
    if task.class_names and not task.named_by_data:
        if sorted(names) == sorted(task.class_names):
            raise UserError(
                f"the task names the classes of the data in another order: {', '.join(task.class_names)} instead of "
                f"{', '.join(names)}"
            )
        return
    task.class_names, task.named_by_data = names, True
    for of_stage in scores:
        if of_stage is not None:
            of_stage.make_metrics(task)


def check_num_classes(trainer: Trainer, task: Task) -> None:
    """Raises a ValueError if the data module and the task have different numbers of classes."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    classes = getattr(data, "num_classes", None)
    expected = getattr(task, "num_classes", classes)
    if classes is not None and classes != expected:
        name = type(task).__name__
        raise UserError(f"{type(data).__name__} has {classes} classes, but the task is {name}(num_classes={expected})")


def labels_of(batch: Batch, model: object) -> Tensor:
    """The batch's ``target``.

    Raises:
        KeyError: The batch has none.
    """
    if "target" not in batch:
        raise UserKeyError(f"the batch has no 'target' for {type(model).__name__} to learn from or be scored by")
    target: Tensor = batch["target"]
    return target


def check_labels_on_cpu(batch: Batch | Tensor, task: Task | None, trainer: Trainer | None) -> None:
    """Raises a ValueError if a label on the CPU is not one of the task's classes.

    On the CPU this check costs almost nothing; on a GPU a wrong label would end the process. ``predict`` needs no
    labels.
    """
    if task is None or (trainer is not None and trainer.predicting):
        return
    if not isinstance(batch, Mapping):  # an example input, which Lightning's exports transfer like a batch
        return
    target = batch.get("target")
    if target is None:
        return
    if not isinstance(target, Tensor):
        raise UserTypeError(f"the batch's 'target' must be a tensor, got {described(target)}")
    if target.device.type == "cpu":
        task.check_labels(target, data="data", index=batch.get("index"))
