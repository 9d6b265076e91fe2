"""Checks what callbacks and schedules monitor before the first epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from distill.errors import UserError

COUNTERS = ("epoch", "step")
"""What a ModelCheckpoint can monitor although nobody logs it."""


class MonitorCheck(Callback):
    """Stops a fit whose callbacks or schedule monitor a value that is never logged.

    The names of the module's own values are known after the sanity check. A callback that logs values in a validation,
    but not in the sanity check, has a tuple ``logged`` with the patterns of their names. If there is another callback
    that may log values, or no sanity check, then names are checked after the first validation. Names of the training
    are known after the first epoch. It also refuses Lightning's BatchSizeFinder where it would fail.

    An epoch may end before the first validation of the fit, for example by ``max_steps``. Whoever monitors a value of
    the validation then waits for it, where Lightning would raise an error.
    """

    def __init__(self) -> None:
        self._checked = False
        self._waiting: list[Any] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a BatchSizeFinder that finds no size to change."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            if isinstance(callback, BatchSizeFinder) and data is not None and not getattr(data, "batch_size", None):
                raise UserError(
                    f"BatchSizeFinder changes the batch_size of the data, and {type(data).__name__} has none: give "
                    "data.init_args.batch_size a number, or leave the callback out"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to wait for a value of a validation in a fit that has none."""
        if trainer.enable_validation and sum(trainer.num_val_batches) > 0:
            return
        for who, name in _monitored(trainer, by_default=False):
            if name.startswith("val/"):
                raise UserError(
                    f"{who} monitors {name!r}, but this fit has no validation: give data to validate on and "
                    "trainer.limit_val_batches, or monitor train/loss"
                )

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the names if all that will be logged are known."""
        if all(_says_what_it_logs(callback) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._check(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the names after the first validation."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._end_waiting()
        if not self._checked:
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets callbacks and schedules wait for the first validation."""
        for who, name, strict in _strict(trainer):
            if name.startswith("val/") and name not in trainer.callback_metrics:
                rank_zero_info(f"{who} waits for {name} until a validation has ended")
                strict.strict = False
                self._waiting.append(strict)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves callbacks and schedules as they were given."""
        self._end_waiting()

    def _end_waiting(self) -> None:
        for part in self._waiting:
            part.strict = True
        self._waiting = []

    def _check(self, trainer: Trainer) -> None:
        self._checked = True
        if not trainer.callback_metrics:  # nothing to validate on
            return
        patterns = [f"val/{name}" for callback in trainer.callbacks for name in getattr(callback, "logged", ())]  # type: ignore[attr-defined]
        logged = sorted(name for name in trainer.callback_metrics if "/" in name)
        for who, name in _monitored(trainer):
            known = name in trainer.callback_metrics or any(fnmatchcase(name, pattern) for pattern in patterns)
            if not known and not name.startswith("train/") and name not in COUNTERS:
                names = ", ".join([*logged, *patterns, "train/loss"])
                raise UserError(f"{who} monitors {name!r}, which is not logged: choose one of {names}")


def check_rate_finder(callbacks: Iterable[Callback], module: LightningModule) -> None:
    """Refuses Lightning's LearningRateFinder for a module whose optimiser has the learning rate.

    Raises:
        ValueError: The module has no attribute ``lr`` or ``learning_rate``.
    """
    found = any(isinstance(callback, LearningRateFinder) for callback in callbacks)
    if found and not (hasattr(module, "lr") or hasattr(module, "learning_rate")):
        raise UserError(
            f"LearningRateFinder sets the attribute lr of a module, and {type(module).__name__} has none, because its "
            "optimizer has the rate: leave the callback out, and compare rates as the rows of a study"
        )


def _strict(trainer: Trainer) -> Iterator[tuple[str, str, Any]]:
    """Who fails without its value, the name of the value, and the object whose ``strict`` says so."""
    for callback in trainer.early_stopping_callbacks:
        if callback.strict:
            yield type(callback).__name__, callback.monitor, callback
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.strict and config.monitor is not None:
            yield type(config.scheduler).__name__, config.monitor, config


def _monitored(trainer: Trainer, *, by_default: bool = True) -> Iterator[tuple[str, str]]:
    """Who monitors what; with ``by_default``, also callbacks that do not say whether they need the value."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name: Any = getattr(callback, "monitor", None)
        if isinstance(name, str) and getattr(callback, "strict", by_default):
            yield type(callback).__name__, name
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.strict and config.monitor is not None:
            yield type(config.scheduler).__name__, config.monitor


def _says_what_it_logs(callback: Callback) -> bool:
    """Whether a callback has the names of its values, or is one of Lightning's or this project's that log none."""
    known = type(callback).__module__.partition(".")[0] in ("lightning", "distill", "callbacks")
    return known or hasattr(callback, "logged")
