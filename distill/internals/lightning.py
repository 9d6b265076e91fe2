"""What is used of Lightning beyond its public names, each with the version in which it was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.strategies import DDPStrategy


def attached(module: LightningModule | LightningDataModule) -> Trainer | None:
    """The trainer of a module or of its data, if it has one; ``LightningModule.trainer`` raises then (2.6.6)."""
    return module._trainer if isinstance(module, LightningModule) else module.trainer


def loader_of(trainer: Trainer, stage: str) -> Any:
    """What the user's data give to fit, validate or test on, before a loop has asked for it (2.6.6)."""
    loop: Any = getattr(trainer, {"fit": "fit_loop", "validate": "validate_loop", "test": "test_loop"}[stage])
    return loop._data_source.dataloader()


def attach_data(trainer: Trainer, module: LightningModule, data: LightningDataModule) -> None:
    """Gives a trainer a module and its data as ``fit`` would, without starting a fit (2.6.6)."""
    trainer._data_connector.attach_data(module, datamodule=data)


def made_by_command_line() -> bool:
    """Whether LightningCLI makes the present module, and so knows its whole configuration (2.6.6)."""
    return _given_hyperparameters.get() is not None


def shares_samples(trainer: Trainer) -> bool:
    """The argument ``use_distributed_sampler`` of a trainer (2.6.6)."""
    return trainer._accelerator_connector.use_distributed_sampler


def finds_unused_parameters(strategy: DDPStrategy) -> bool:
    """The argument ``find_unused_parameters`` of DDP, which is false by default (2.6.6)."""
    return bool(strategy._ddp_kwargs.get("find_unused_parameters", False))


class SeedingCLI(LightningCLI):
    """LightningCLI with a public name for its step that seeds, between parsing and making (2.6.6)."""

    def _set_seed(self) -> None:
        self.set_seed()

    def set_seed(self) -> None:
        """Seeds as the configuration says."""
        super()._set_seed()


class TransferHooks(LightningModule):
    """Two hooks around the transfer of a batch to the device.

    The public hooks of Lightning would make it warn every user of a data module that has the same hooks (2.6.6).
    """

    def before_transfer(self, batch: Any) -> None:
        """Called with a batch as the loader gives it."""

    def after_transfer(self, batch: Any, moved: Any) -> None:
        """Called with a batch as the loader gives it, and as it lies on the device."""

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        self.before_transfer(batch)
        moved = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        self.after_transfer(batch, moved)
        return moved


# Logged values


def epoch_results(trainer: Trainer) -> dict[str, Any]:
    """What ``log`` averages over the training epoch, by module and name; each is a metric with a ``meta`` (2.6.6)."""
    results: dict[str, Any] = trainer.fit_loop.epoch_loop._results
    return {key: result for key, result in results.items() if result.is_tensor and result.meta.on_epoch}


def current_metrics(trainer: Trainer) -> dict[str, Any]:
    """What would be logged now, without what was logged before; ``Trainer.logged_metrics`` has both (2.6.6)."""
    return dict(trainer._logger_connector.metrics["log"])


def logs_this_step(trainer: Trainer) -> bool:
    """Whether the present step is one of every ``log_every_n_steps`` (2.6.6)."""
    return trainer._logger_connector.should_update_logs


def steps_logged(trainer: Trainer) -> int:
    """The steps of the fit so far, by which loggers count: one a batch with several optimisers as well (2.6.6)."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


# Checkpoints in the middle of an epoch


def epoch_ends(trainer: Trainer) -> bool:
    """Whether no batch of the present epoch is to come (2.6.6)."""
    loop = trainer.fit_loop.epoch_loop
    return loop._is_training_done or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def accumulates(trainer: Trainer) -> bool:
    """Whether gradients are half gathered, by ``accumulate_grad_batches`` (2.6.6)."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def validates_after_batch(trainer: Trainer) -> bool:
    """Whether a validation follows the present batch (2.6.6)."""
    fetcher = cast(Any, trainer.fit_loop._data_fetcher)
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def validates_by_time(trainer: Trainer) -> bool:
    """Whether ``val_check_interval`` is a time rather than a number of batches (2.6.6)."""
    return cast(Any, trainer)._val_check_time_interval is not None


def begin_next_epoch(trainer: Trainer) -> None:
    """Leaves an epoch that has ended, as Lightning does without ``max_steps``; with it, it would enter it again.

    ``FitLoop.restarting`` is true wherever ``max_steps`` is set, so the property of its base class is set (2.6.6).
    """
    loop = trainer.fit_loop
    loop.epoch_progress.increment_completed()
    loop.reset_restart_stage()
    loop.epoch_loop.reset_restart_stage()
    _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]


def training_loaders(trainer: Trainer) -> list[Any]:
    """The loaders that a fit takes its batches from, as Lightning has made them anew for several processes (2.6.6)."""
    assert trainer.fit_loop._combined_loader is not None
    return list(trainer.fit_loop._combined_loader.flattened)


def is_stateful(loader: Any) -> bool:
    """Whether Lightning keeps the state of a loader in checkpoints (2.6.6)."""
    return isinstance(loader, _Stateful)


def may_save(checkpoint: ModelCheckpoint, trainer: Trainer) -> bool:
    """Whether the trainer fits, and the callback has not saved this step already (2.6.6)."""
    return not checkpoint._should_skip_saving_checkpoint(trainer)


def save_now(checkpoint: ModelCheckpoint, trainer: Trainer) -> None:
    """Lets a callback write its checkpoint at once, and delete the one before (2.6.6)."""
    checkpoint._save_topk_checkpoint(trainer, checkpoint._monitor_candidates(trainer))


# Signals


def requeues(trainer: Trainer) -> bool:
    """Whether Lightning puts a job of SLURM back into the queue, by signal handlers of its own (2.6.6)."""
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue


def handlers_before(trainer: Trainer) -> dict[Any, Callable[..., Any] | Any]:
    """The signal handlers that the trainer found, and puts back when it ends (2.6.6)."""
    return dict(trainer._signal_connector._original_handlers)


def stop_as_by_sigterm(trainer: Trainer) -> None:
    """Makes Lightning end the step or the epoch, then the fit with a ``SIGTERMException`` (2.6.6)."""
    trainer._signal_connector.received_sigterm = True
