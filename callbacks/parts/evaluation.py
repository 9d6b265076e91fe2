"""Bases of the callbacks that collect something over a validation or a test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.parts.run_folder import run_folder
from callbacks.parts.step import Step, read_step
from distill.checks import check_at_least
from distill.training.loaders import loader_count, loader_suffix


class Split(NamedTuple):
    """The samples of one loader: ``train``, ``val`` or ``test``, and ``/<name>`` for each loader after the first."""

    stage: str
    suffix: str = ""

    def key(self, name: str) -> str:
        """The name of a logged value: ``val/<name>``, or ``val/<name>/<name of the loader>``."""
        return f"{self.stage}/{name}{self.suffix}"

    @property
    def label(self) -> str:
        """``val``, or ``val/<name of the loader>``."""
        return f"{self.stage}{self.suffix}"

    @property
    def file_suffix(self) -> str:
        """Nothing, or ``_<name of the loader>``, for the name of a file."""
        return self.suffix.replace("/", "_")


class EvaluationCallback(Callback, ABC):
    """Receives each batch of the validation (``val``) and of the test (``test``), but not of the sanity check.

    Several loaders are several :class:`Split`: each is started, gets its batches, and is closed after the last loader.
    """

    idle = "measures nothing"
    """What a warning says of a callback that cannot use what the steps return."""

    _warned = False
    _splits: tuple[Split, ...] = ()
    _any_returned: bool | None = None
    """Whether any step of this evaluation returned something; ``None`` before its first batch."""

    @abstractmethod
    def start(self, split: Split) -> None:
        """Forgets the batches of an earlier epoch."""

    @abstractmethod
    def add(self, split: Split, trainer: Trainer, pl_module: LightningModule, step: Step) -> None:
        """Collects from what a step returned for a batch."""

    @abstractmethod
    def close(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs or draws the epoch."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a validation."""
        self._start("val", trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch of the validation."""
        if not trainer.sanity_checking:
            self._add(trainer, pl_module, outputs, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the validation."""
        if not trainer.sanity_checking:
            self._close(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a test."""
        self._start("test", trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch of the test."""
        self._add(trainer, pl_module, outputs, batch, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the test."""
        self._close(trainer, pl_module)

    def _start(self, stage: str, trainer: Trainer) -> None:
        count = loader_count(trainer, stage)
        self._splits = tuple(Split(stage, loader_suffix(trainer, stage, index)) for index in range(count))
        self._any_returned = None
        for split in self._splits:
            self.start(split)

    def _add(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, dataloader_idx: int) -> None:
        step = self._read(pl_module, outputs, batch)
        if step is not None:
            self.add(self._splits[dataloader_idx], trainer, pl_module, step)

    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._any_returned is False:
            self._warn_once(f"{self.idle}: the steps return nothing, not even a prediction")
        for split in self._splits:
            self.close(split, trainer, pl_module)

    def _read(self, pl_module: LightningModule, outputs: Any, batch: Any, *, training: bool = False) -> Step | None:
        """What a step returned; ``None``, and one warning, if that has no prediction."""
        returned = outputs is not None and not (isinstance(outputs, Mapping) and not outputs)
        self._any_returned = bool(self._any_returned) or returned
        step = read_step(outputs, batch, pl_module)
        if returned and step is None:
            where, steps = (" in training", "training steps") if training else ("", "steps")
            self._warn_once(f"{self.idle}{where}: the {steps} return no prediction")
        return step

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            rank_zero_warn(f"{type(self).__name__} {message}")
        self._warned = True


class DrawingCallback(EvaluationCallback):
    """Base of the callbacks that draw some validations of a fit: those after every few epochs, and the last one.

    Args:
        every_n_epochs: The first validation after each ``every_n_epochs`` epochs is drawn, and the last validation.

    Raises:
        ValueError: ``every_n_epochs`` is below 1.
    """

    def __init__(self, every_n_epochs: int) -> None:
        check_at_least(1, every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self._folder: Path | None = None
        self._epoch = 0
        self._drawn_epochs = 0
        self._due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run's folder."""
        self._folder = run_folder(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the epochs before a resumed fit as drawn."""
        self._drawn_epochs = trainer.current_epoch

    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._due = self._is_due(trainer)
        super()._close(trainer, pl_module)

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether to draw this validation of a fit; asked once in each validation."""
        if trainer.state.fn != TrainerFn.FITTING:
            return False
        self._epoch = trainer.current_epoch
        ended = self._epoch + 1
        due = ended // self.every_n_epochs > self._drawn_epochs // self.every_n_epochs
        if due:
            self._drawn_epochs = ended
        return due


def log_reduced(pl_module: LightningModule, values: dict[str, Any]) -> None:
    """Logs values of an epoch that are equal on all processes already."""
    # sync_dist changes nothing here; without it, Lightning warns
    pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)
