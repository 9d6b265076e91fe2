"""The names of classes, and the probabilities that a network gives them, for any module and data."""

from __future__ import annotations

from lightning.pytorch import Trainer


def class_names(trainer: Trainer) -> tuple[str, ...]:
    """The names of the classes by index: those of the module's task, or those of the data; empty if unknown."""
    task = getattr(trainer.lightning_module, "task", None)
    data = trainer.datamodule  # type: ignore[attr-defined]
    return tuple(getattr(task, "class_names", None) or getattr(data, "class_names", None) or ())
