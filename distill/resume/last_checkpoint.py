"""The checkpoint from which a fit resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden

from distill.distributed import all_gather_objects, rank_part, world_size
from distill.internals import lightning as internals
from distill.resume.epoch_state import EpochState, add_logged, epoch_state, restore_metrics
from distill.resume.metrics_table import MetricsCSV
from distill.resume.signals import Signals


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``checkpoints/last.ckpt``, from which a fit resumes as if it had never stopped.

    The checkpoint is written when an epoch ends and when a signal requests it. After ``SIGUSR1`` the fit continues;
    after ``SIGTERM`` it ends. On a signal, the checkpoint is written after the current step and after the validation
    that follows this step. If gradients are being accumulated, it is written after the step that completes them. In
    the last step of an epoch it is written at the end of the epoch. In the middle of an epoch the loaders of the
    training data must have a ``state_dict``.

    Lightning does two things only after it writes the checkpoint, and does not repeat them when the fit resumes. They
    are done here: the row in ``metrics.csv``, and the step of a ``ReduceLROnPlateau`` schedule.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False)
        self._signals = Signals()
        self._plateau_values: list[float | None] = []
        self._epoch_state: EpochState | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets an earlier fit or test; a checkpoint is loaded after this."""
        super().setup(trainer, pl_module, stage)
        self._plateau_values, self._epoch_state = [], None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the state of the epoch, makes up for a missed step of a plateau schedule, and handles signals."""
        super().on_train_start(trainer, pl_module)
        if trainer.fit_loop.restarted_on_epoch_end:
            internals.begin_next_epoch(trainer)
        if self._epoch_state is not None:
            restore_metrics(self._epoch_state, trainer, pl_module)
        self._step_on_plateaus(trainer, pl_module)
        self._signals.install(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the values of the plateau schedules, because Lightning has made these steps."""
        self._plateau_values = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the checkpoint if a signal requested it."""
        if self._epoch_state is not None:
            add_logged(self._epoch_state, trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not self._checkpoint_is_due(trainer):
            return
        # all processes decide together, because each has its own clock for a val_check_interval in time
        if trainer.strategy.reduce_boolean_decision(internals.validates_after_batch(trainer), all=False):
            return
        self._handle_signal(trainer, pl_module, "on_train_batch_end")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the checkpoint if a signal requested it during the last step or the validation."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        # a resumed Lightning skips this validation only if it can tell from the step number that it took place
        if not internals.validates_by_time(trainer) and self._checkpoint_is_due(trainer):
            self._handle_signal(trainer, pl_module, "on_validation_end")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the row, then the checkpoint."""
        metrics = trainer.callback_metrics
        self._plateau_values = [
            float(metrics[config.monitor]) if config.reduce_on_plateau and config.monitor in metrics else None
            for config in trainer.lr_scheduler_configs
        ]
        self._epoch_state = None
        _log(trainer, internals.steps_logged(trainer) - 1)
        _save_tables(trainer)
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.fit_loop.restarting:  # Lightning makes no step at the end of an epoch that was resumed in its middle
            self._step_on_plateaus(trainer, pl_module)
        self._signals.clear_request()
        self._stop_if_requested(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the state of an unfinished epoch; after a finished one, removes the position of the loaders."""
        epochs: Any = trainer.fit_loop.epoch_progress.current
        if epochs.processed < epochs.ready:
            checkpoint["epoch_so_far"] = all_gather_objects(epoch_state(trainer, pl_module, self._epoch_state))
        else:
            checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the state of the epoch for :meth:`on_train_start`."""
        states = checkpoint.get("epoch_so_far", [])
        self._epoch_state = rank_part(states, None) if states else None
        if states and len(states) != world_size():
            rank_zero_warn(
                f"{len(states)} processes wrote the checkpoint in the middle of an epoch, and {world_size()} processes "
                "resume from it: in this epoch some samples are seen twice and others never, and the losses and "
                "training metrics of the epoch are affected too"
            )

    def state_dict(self) -> dict[str, Any]:
        """Lightning's state and the values of the plateau schedules."""
        return super().state_dict() | {"plateaus": self._plateau_values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores Lightning's state and the values of the plateau schedules."""
        super().load_state_dict(state_dict)
        self._plateau_values = state_dict["plateaus"]

    def _checkpoint_is_due(self, trainer: Trainer) -> bool:
        """Whether a signal requested a checkpoint, batches are left in the epoch, and no gradients accumulate."""
        possible = not internals.epoch_ends(trainer) and not internals.accumulates(trainer)
        return self._signals.checkpoint_requested(trainer) and possible

    def _handle_signal(self, trainer: Trainer, pl_module: LightningModule, hook: str) -> None:
        self._signals.clear_request()
        obstacle = _obstacle_in_an_epoch(trainer, pl_module, hook)
        if obstacle is not None:
            rank_zero_warn(f"no checkpoint is written in the middle of an epoch, because {obstacle}")
        elif internals.may_save(self, trainer):
            if hook == "on_train_batch_end" and internals.logs_this_step(trainer):
                _log(trainer, internals.steps_logged(trainer))
            _save_tables(trainer)
            internals.save_now(self, trainer)
            batch = f"batch {trainer.fit_loop.batch_idx} of epoch {trainer.current_epoch}"
            rank_zero_info(f"{self.best_model_path} resumes after {batch}")
        self._stop_if_requested(trainer)

    def _step_on_plateaus(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config, value in zip(trainer.lr_scheduler_configs, self._plateau_values, strict=False):
            if value is not None:
                pl_module.lr_scheduler_step(config.scheduler, value)
        self._plateau_values = []

    def _stop_if_requested(self, trainer: Trainer) -> None:
        if self._signals.stop_requested(trainer):
            internals.stop_as_by_sigterm(trainer)


def _obstacle_in_an_epoch(trainer: Trainer, module: LightningModule, hook: str) -> str | None:
    """The reason why a fit could not resume exactly from a checkpoint in the middle of an epoch; None if it can."""
    for loader in internals.training_loaders(trainer):
        if not internals.is_stateful(loader):
            return f"the {type(loader).__name__} of the training data has no state_dict to resume from"
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
