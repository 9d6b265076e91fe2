"""The checkpoint from which a fit goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from distill.distributed import all_gather_objects, rank_part, world_size
from distill.internals import lightning as internals
from distill.resume.epoch_state import EpochState, add_logged, gathered, restore_metrics
from distill.resume.metrics_table import MetricsCSV
from distill.resume.signals import Signals


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``checkpoints/last.ckpt``, from which a fit goes on as if it had never stopped.

    It is written when an epoch ends, and when a signal asks for it: ``SIGUSR1``, after which the fit goes on, or
    ``SIGTERM``, after which it ends. It then holds the step in which the signal came, or the next one that leaves no
    gradients half gathered, with the validation that follows it; in the last step of an epoch its end is waited for. In
    the middle of an epoch this takes loaders of the training data that have a ``state_dict``.

    Some things that Lightning does only after that, and not when the fit goes on, are done here: the row in
    ``metrics.csv``, and the step of a schedule that waits for a plateau.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False)
        self._signals = Signals()
        self._plateaus: list[float | None] = []
        self._so_far: EpochState | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets a former fit or test; a checkpoint is loaded after this."""
        super().setup(trainer, pl_module, stage)
        self._plateaus, self._so_far = [], None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on with what the epoch has gathered, makes up for the step on a plateau, and listens to signals."""
        super().on_train_start(trainer, pl_module)
        if trainer.fit_loop.restarted_on_epoch_end:
            internals.begin_next_epoch(trainer)
        if self._so_far is not None:
            restore_metrics(self._so_far, trainer, pl_module)
        self._step_on_plateaus(trainer, pl_module)
        self._signals.listen(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the plateau, on which Lightning has stepped."""
        self._plateaus = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the checkpoint if a signal has asked for it."""
        if self._so_far is not None:
            add_logged(self._so_far, trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not self._may_answer(trainer):
            return
        # asked of all processes, as each has its own clock for a val_check_interval in time
        if trainer.strategy.reduce_boolean_decision(internals.validates_after_batch(trainer), all=False):
            return
        self._answer(trainer, pl_module, "on_train_batch_end")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the checkpoint if a signal has asked for it in the step before or since."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        # Lightning finds its place behind a validation only where the step tells that there was one
        if not internals.validates_by_time(trainer) and self._may_answer(trainer):
            self._answer(trainer, pl_module, "on_validation_end")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the row, then the checkpoint."""
        seen = trainer.callback_metrics
        self._plateaus = [
            float(seen[config.monitor]) if config.reduce_on_plateau and config.monitor in seen else None
            for config in trainer.lr_scheduler_configs
        ]
        self._so_far = None
        _log(trainer, internals.steps_logged(trainer) - 1)
        _save_tables(trainer)
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.fit_loop.restarting:  # Lightning does not step in an epoch that has gone on in its middle
            self._step_on_plateaus(trainer, pl_module)
        self._signals.answered()
        self._stop_if_asked(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds what the epoch has gathered, if it is one that has not ended; else the loaders begin a new one."""
        epochs: Any = trainer.fit_loop.epoch_progress.current
        if epochs.processed < epochs.ready:
            checkpoint["epoch_so_far"] = all_gather_objects(gathered(trainer, pl_module, self._so_far))
        else:
            checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remembers it for :meth:`on_train_start`."""
        states = checkpoint.get("epoch_so_far", [])
        self._so_far = rank_part(states, None) if states else None
        if states and len(states) != world_size():
            rank_zero_warn(
                f"the checkpoint was written in the middle of an epoch by {len(states)} processes, and {world_size()} "
                "go on from it: in this epoch some samples are seen twice and some not at all, in its losses and "
                "training metrics as well"
            )

    def state_dict(self) -> dict[str, Any]:
        """As of Lightning, and what the plateau is told by."""
        return super().state_dict() | {"plateaus": self._plateaus}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of Lightning, and what the plateau is told by."""
        super().load_state_dict(state_dict)
        self._plateaus = state_dict["plateaus"]

    def _may_answer(self, trainer: Trainer) -> bool:
        """Whether a checkpoint is asked for in the middle of an epoch, where no gradients are half gathered."""
        inside = not internals.epoch_ends(trainer) and not internals.accumulates(trainer)
        return self._signals.ask_for_checkpoint(trainer) and inside

    def _answer(self, trainer: Trainer, pl_module: LightningModule, hook: str) -> None:
        self._signals.answered()
        obstacle = _obstacle_in_an_epoch(trainer, pl_module, hook)
        if obstacle is not None:
            rank_zero_warn(f"no checkpoint is written in the middle of an epoch, as {obstacle}")
        elif internals.may_save(self, trainer):
            if hook == "on_train_batch_end" and internals.logs_this_step(trainer):
                _log(trainer, internals.steps_logged(trainer))
            _save_tables(trainer)
            internals.save_now(self, trainer)
            behind = f"batch {trainer.fit_loop.batch_idx} of epoch {trainer.current_epoch}"
            rank_zero_info(f"{self.best_model_path} goes on behind {behind}")
        self._stop_if_asked(trainer)

    def _step_on_plateaus(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config, value in zip(trainer.lr_scheduler_configs, self._plateaus, strict=False):
            if value is not None:
                pl_module.lr_scheduler_step(config.scheduler, value)
        self._plateaus = []

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._signals.ask_to_stop(trainer):
            internals.stop_as_by_sigterm(trainer)


def _obstacle_in_an_epoch(trainer: Trainer, module: LightningModule, hook: str) -> str | None:
    """Why a checkpoint in the middle of an epoch would not go on as if the fit had never stopped, if so."""
    for loader in internals.training_loaders(trainer):
        if not internals.is_stateful(loader):
            return f"the {type(loader).__name__} of the training data has no state_dict to go on from"
    if is_overridden(hook, module):
        return f"Lightning calls {hook} of {type(module).__name__} after that"
    return None


def _log(trainer: Trainer, step: int) -> None:
    metrics = convert_tensors_to_scalars(internals.current_metrics(trainer))
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV) and metrics:
            logger.log_metrics({"epoch": trainer.current_epoch, **metrics}, step)


def _save_tables(trainer: Trainer) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.save()
