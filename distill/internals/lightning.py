"""Lightning: functions that use its private names, each with the version that was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import AveragedModel


def attached(module: LightningModule | LightningDataModule) -> Trainer | None:
    """The trainer of a module or of its data, or ``None``; ``LightningModule.trainer`` raises without one (2.6.6)."""
    return module._trainer if isinstance(module, LightningModule) else module.trainer


def loader_of(trainer: Trainer, stage: str) -> Any:
    """The user's loader to fit, validate or test on, before a loop has requested it (2.6.6)."""
    loop: Any = getattr(trainer, {"fit": "fit_loop", "validate": "validate_loop", "test": "test_loop"}[stage])
    return loop._data_source.dataloader()


def evaluation_loaders(trainer: Trainer, stage: str) -> Any:
    """The loaders of a running validation (``val``), ``test`` or ``predict``, as the user gave them (2.6.6).

    ``Trainer.val_dataloaders`` returns those of a fit before also in a later ``validate``.
    """
    fitting = trainer.state.fn == TrainerFn.FITTING
    of_val = trainer.fit_loop.epoch_loop.val_loop if fitting else trainer.validate_loop
    loop: Any = {"val": of_val, "test": trainer.test_loop, "predict": trainer.predict_loop}[stage]
    return None if loop._combined_loader is None else loop._combined_loader.iterables


def attach_data(trainer: Trainer, module: LightningModule, data: LightningDataModule) -> None:
    """Gives a trainer a module and its data as ``fit`` would, without starting a fit (2.6.6)."""
    trainer.strategy.connect(module)  # the hooks of a transfer look for the module there
    trainer._data_connector.attach_data(module, datamodule=data)


def made_by_command_line() -> bool:
    """Whether LightningCLI creates the module now and so knows its whole configuration (2.6.6)."""
    return _given_hyperparameters.get() is not None


def shares_samples(trainer: Trainer) -> bool:
    """The argument ``use_distributed_sampler`` of a trainer (2.6.6)."""
    return trainer._accelerator_connector.use_distributed_sampler


def finds_unused_parameters(strategy: DDPStrategy) -> bool:
    """The argument ``find_unused_parameters`` of DDP, which is false by default (2.6.6)."""
    return bool(strategy._ddp_kwargs.get("find_unused_parameters", False))


class SeedingCLI(LightningCLI):
    """LightningCLI with public names for two steps: seeding, after parsing and before creating, and the run (2.6.6)."""

    def _set_seed(self) -> None:
        self.set_seed()

    def set_seed(self) -> None:
        """Seeds as the configuration says."""
        super()._set_seed()

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_subcommand(subcommand)

    def run_subcommand(self, subcommand: str) -> None:
        """Fits, validates, tests or predicts; everything before it prepares the run."""
        super()._run_subcommand(subcommand)


class TransferHooks(LightningModule):
    """Two hooks around the transfer of a batch to the device; what the second one returns is what the step gets.

    Lightning's public hooks of this kind would make it warn every user of a data module with the same hooks (2.6.6).
    Example inputs of exports and summaries come here without a device, and do not reach the hooks.
    """

    def before_transfer(self, batch: Any) -> Any:
        """Called with a batch as the loader gives it; returns it in the form for :meth:`after_transfer`."""
        return batch

    def after_transfer(self, batch: Any, moved: Any) -> Any:
        """Called with what :meth:`before_transfer` returned, and with the batch on the device, as Lightning has it."""
        return moved

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        if device is None:
            return super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        before = self.before_transfer(batch)
        moved = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        return self.after_transfer(before, moved)


def as_in_a_step(module: LightningModule, batch: Any, dataloader_idx: int = 0) -> Any:
    """A loader's batch as a step gets it: on the module's device, and after all hooks of the transfer (2.6.6)."""
    batch = module._on_before_batch_transfer(batch, dataloader_idx=dataloader_idx)
    return module._apply_batch_transfer_handler(batch, device=module.device, dataloader_idx=dataloader_idx)


# Logged values


def epoch_results(trainer: Trainer) -> dict[str, Any]:
    """The values that ``log`` averages over the epoch, by module and name; metrics with a ``meta`` (2.6.6)."""
    results: dict[str, Any] = trainer.fit_loop.epoch_loop._results
    return {key: result for key, result in results.items() if result.is_tensor and result.meta.on_epoch}


def current_metrics(trainer: Trainer) -> dict[str, Any]:
    """The values to be logged now; ``Trainer.logged_metrics`` also has those that were logged before (2.6.6)."""
    return dict(trainer._logger_connector.metrics["log"])


def logs_this_step(trainer: Trainer) -> bool:
    """Whether loggers get the values of this step, by ``log_every_n_steps`` (2.6.6)."""
    return trainer._logger_connector.should_update_logs


def steps_logged(trainer: Trainer) -> int:
    """The number of steps so far as loggers count: one per batch, even with several optimisers (2.6.6)."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


# Checkpoints in the middle of an epoch


def epoch_ends(trainer: Trainer) -> bool:
    """Whether this batch is the last of the epoch (2.6.6)."""
    loop = trainer.fit_loop.epoch_loop
    return loop._is_training_done or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def accumulates(trainer: Trainer) -> bool:
    """Whether ``accumulate_grad_batches`` has started to sum gradients but not finished (2.6.6)."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def validates_after_batch(trainer: Trainer) -> bool:
    """Whether a validation follows this batch (2.6.6)."""
    fetcher = cast(Any, trainer.fit_loop._data_fetcher)
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def validates_by_time(trainer: Trainer) -> bool:
    """Whether ``val_check_interval`` is a time rather than a number of batches (2.6.6)."""
    return cast(Any, trainer)._val_check_time_interval is not None


def begin_next_epoch(trainer: Trainer) -> None:
    """Leaves an epoch that has ended; with ``max_steps``, Lightning would enter it a second time (2.6.6).

    ``FitLoop.restarting`` is always true with ``max_steps``, so this sets the property of the base class.
    """
    loop = trainer.fit_loop
    loop.epoch_progress.increment_completed()
    loop.reset_restart_stage()
    loop.epoch_loop.reset_restart_stage()
    _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]


def training_loaders(trainer: Trainer) -> list[Any]:
    """The loaders of a fit; for several processes these are Lightning's own copies (2.6.6)."""
    assert trainer.fit_loop._combined_loader is not None
    return list(trainer.fit_loop._combined_loader.flattened)


def is_stateful(loader: Any) -> bool:
    """Whether Lightning keeps the state of a loader in checkpoints (2.6.6)."""
    return isinstance(loader, _Stateful)


def may_save(checkpoint: ModelCheckpoint, trainer: Trainer) -> bool:
    """Whether the trainer fits and the callback has not saved this step yet (2.6.6)."""
    return not checkpoint._should_skip_saving_checkpoint(trainer)


def save_now(checkpoint: ModelCheckpoint, trainer: Trainer) -> None:
    """Lets a callback write its checkpoint now and delete its previous one (2.6.6)."""
    checkpoint._save_topk_checkpoint(trainer, checkpoint._monitor_candidates(trainer))


def averaged_copy(callback: WeightAveraging | StochasticWeightAveraging) -> torch.nn.Module | None:
    """The copy of the module that holds the averaged weights during a fit, or ``None`` before it (2.6.6)."""
    model = callback._average_model
    return model.module if isinstance(model, AveragedModel) else model


def averages_so_far(callback: WeightAveraging) -> int:
    """How many averages were taken so far in a fit; before the first, the copy has the weights of its start (2.6.6)."""
    return 0 if callback._average_model is None else int(callback._average_model.n_averaged)


def forget_averaged_copy(callback: WeightAveraging) -> None:
    """Drops the averaged weights of an ended fit, which a later validation would use instead of a checkpoint's (2.6.6).

    ``WeightAveraging.on_validation_epoch_start`` takes them whenever they are there.
    """
    callback._average_model = None


# Signals


def requeues(trainer: Trainer) -> bool:
    """Whether Lightning's own signal handlers requeue a SLURM job (2.6.6)."""
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue


def handlers_before(trainer: Trainer) -> dict[Any, Callable[..., Any] | Any]:
    """The signal handlers from before the fit; the trainer restores them at its end (2.6.6)."""
    return dict(trainer._signal_connector._original_handlers)


def stop_as_by_sigterm(trainer: Trainer) -> None:
    """Makes Lightning end the step or the epoch, then the fit with a ``SIGTERMException`` (2.6.6)."""
    trainer._signal_connector.received_sigterm = True
