"""Brings the predictions of a teacher with other classes, or another order of them, to the student's classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.errors import UserError
from distill.tasks import Task


class ClassMap:
    """The student's class for each class of the teacher.

    A student's class with one class of the teacher gets its logit. A student's class with several gets the logsumexp of
    their logits: its probability is then the sum of their probabilities. Classes that the student lacks are left out;
    the other probabilities are divided by their sum.

    Args:
        classes: For each class of the teacher, the index or the name of the student's class, or None if the student has
            none. The names are those of the task or of the data.

    Raises:
        ValueError: There is no entry, or one is neither an index nor a name.
    """

    def __init__(self, classes: Sequence[int | str | None]) -> None:
        entries = list(classes) if isinstance(classes, (list, tuple)) else []
        if not entries or not all(entry is None or type(entry) in (int, str) for entry in entries):
            raise UserError(
                f"teacher_classes must list an index, a name or null for each class of the teacher, got {classes!r}"
            )
        self.classes = entries

    def __call__(self, prediction: Tensor, task: Task) -> Tensor:
        """The teacher's logits ``(N, T, *)`` as logits of the task's C classes, ``(N, C, *)``.

        Raises:
            ValueError: The list does not fit the teacher or the task.
        """
        if prediction.ndim < 2 or prediction.shape[1] != len(self.classes):
            raise UserError(
                f"teacher_classes has {len(self.classes)} entries, but it needs one for each class of the teacher, "
                f"whose prediction has the shape {tuple(prediction.shape)}"
            )
        groups = self.groups(task)
        if all(len(group) == 1 for group in groups):
            return prediction[:, [group[0] for group in groups]]
        return torch.stack([prediction[:, group].logsumexp(1) for group in groups], 1)

    def groups(self, task: Task) -> list[list[int]]:
        """The teacher's classes for each class of the task.

        Raises:
            ValueError: An entry is no class of the task, a class of the task is no entry, or the task has no classes.
        """
        count = getattr(task, "num_classes", None)
        if count is None:
            name = type(task).__name__
            if type(task).probabilities is not Task.probabilities:
                raise UserError(f"teacher_classes needs the number of classes: give {name} an attribute num_classes")
            raise UserError(f"teacher_classes needs a task with classes, and {name} has none")
        names = list(task.class_names)
        groups: list[list[int]] = [[] for _ in range(count)]
        for of_teacher, entry in enumerate(self.classes):
            if entry is not None:
                groups[self._index(entry, names, count)].append(of_teacher)
        missing = next((index for index, group in enumerate(groups) if not group), None)
        if missing is not None:
            which = f"{missing} ({names[missing]})" if names else missing
            raise UserError(
                f"teacher_classes leads no class of the teacher to the student's class {which}: every class of "
                "the student needs one"
            )
        if not task.exclusive and any(len(group) > 1 for group in groups):
            raise UserError(
                f"teacher_classes leads several classes of the teacher to one, but the labels of {type(task).__name__} "
                "do not exclude each other, so their probabilities have no sum"
            )
        return groups

    def _index(self, entry: int | str, names: Sequence[str], count: int) -> int:
        if isinstance(entry, str):
            if entry not in names:
                known = ", ".join(names) or "without names: give indices, or class_names to the task"
                raise UserError(f"teacher_classes names {entry!r}, but the student's classes are {known}")
            return names.index(entry)
        if not 0 <= entry < count:
            raise UserError(f"teacher_classes has the entry {entry}, but the student's classes are 0 to {count - 1}")
        return entry
