"""What is used of Lightning beyond its public names is there and does what is relied on."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sized
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.internals import lightning as internals

SAMPLES = 6


class Model(LightningModule):
    """One weight; logs a value a step and keeps what hooks see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.made_by_command_line = internals.made_by_command_line()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = cast(Tensor, self.layer(batch)).square().mean()
        self.log("mean", batch.mean(), on_epoch=True, on_step=True, batch_size=len(batch))
        self.log("last", batch.mean(), batch_size=len(batch))
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("score", batch.mean(), batch_size=len(batch))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Scores nothing."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(LightningDataModule):
    """The numbers from 0 on, one by one; other numbers in each split."""

    def loader(self, first: int) -> Any:
        return DataLoader(cast(Any, [torch.tensor([float(first + n)]) for n in range(SAMPLES)]))

    def train_dataloader(self) -> Any:
        return self.loader(0)

    def val_dataloader(self) -> Any:
        return self.loader(100)

    def test_dataloader(self) -> Any:
        return self.loader(200)


class Watch(Callback):
    """Calls a function after each batch, and keeps what it returns."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(self.look(trainer))


def quiet(folder: Path, **settings: Any) -> Trainer:
    silent = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    if not any(isinstance(callback, ModelCheckpoint) for callback in settings.get("callbacks", [])):
        silent["enable_checkpointing"] = False
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0, "accelerator": "cpu", **silent, **settings}
    return Trainer(default_root_dir=folder, **settings)


def seen_in_fit(folder: Path, look: Any, **settings: Any) -> list[Any]:
    watch = Watch(look)
    quiet(folder, callbacks=[watch], **settings).fit(Model(), Data())
    return watch.seen


def test_attached_is_the_trainer_of_a_module_or_of_its_data_or_none(tmp_path: Path) -> None:
    module, data = Model(), Data()
    assert internals.attached(module) is None
    assert internals.attached(data) is None
    with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
        _ = module.trainer  # the public name, which is why the private one is needed
    trainer = quiet(tmp_path)
    trainer.fit(module, data)
    assert internals.attached(module) is trainer
    assert internals.attached(data) is trainer


def test_the_loader_of_a_stage_is_there_before_its_loop_asks_for_it(tmp_path: Path) -> None:
    first = {}

    class Look(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            first[stage] = next(iter(internals.loader_of(trainer, stage))).item()

    trainer = quiet(tmp_path, callbacks=[Look()])
    trainer.fit(Model(), Data())
    trainer.validate(Model(), Data(), verbose=False)
    trainer.test(Model(), Data(), verbose=False)
    assert first == {"fit": 0, "validate": 100, "test": 200}


def test_attached_data_give_the_trainers_loaders(tmp_path: Path) -> None:
    trainer, module, data = quiet(tmp_path), Model(), Data()
    internals.attach_data(trainer, module, data)
    assert trainer.datamodule is data  # type: ignore[attr-defined]
    assert len(cast(Sized, internals.loader_of(trainer, "fit"))) == SAMPLES
    assert internals.attached(data) is trainer


def test_the_command_line_is_known_to_the_module_that_it_makes() -> None:
    assert not Model().made_by_command_line
    assert LightningCLI(Model, run=False, args=[], save_config_callback=None).model.made_by_command_line
    assert not Model().made_by_command_line


@pytest.mark.parametrize("shared", [True, False])
def test_a_trainer_shares_samples_as_it_was_told(shared: bool, tmp_path: Path) -> None:
    assert internals.shares_samples(quiet(tmp_path, use_distributed_sampler=shared)) is shared


def test_ddp_finds_unused_parameters_as_it_was_told() -> None:
    assert not internals.finds_unused_parameters(DDPStrategy())
    assert internals.finds_unused_parameters(DDPStrategy(find_unused_parameters=True))


def test_the_command_line_seeds_by_its_public_step() -> None:
    class Silent(internals.SeedingCLI):
        def set_seed(self) -> None:
            self.before = random.getstate()
            self.subcommand_then = self.subcommand

    random.seed(1)
    state = random.getstate()
    settings: Any = {"run": False, "args": [], "save_config_callback": None, "seed_everything_default": 7}
    cli = Silent(Model, **settings)
    assert (random.getstate(), cli.before, cli.subcommand_then) == (state, state, None)
    internals.SeedingCLI(Model, **settings)
    assert random.getstate() != state
    assert torch.initial_seed() == 7


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.filterwarnings("error:You have overridden")
def test_batches_are_seen_on_both_sides_of_the_transfer_though_the_data_module_has_those_hooks(
    stage: str, tmp_path: Path
) -> None:
    seen: list[tuple[str, float]] = []

    class Watched(Model, internals.TransferHooks):
        def before_transfer(self, batch: Any) -> Any:
            seen.append(("before", batch.item()))
            return batch + 1

        def after_transfer(self, batch: Any, moved: Any) -> Any:
            seen.append(("after", moved.item() - batch.item()))
            return moved

    class Changing(Data):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            seen.append(("during", batch.item()))
            return batch + 0.5

    trainer = quiet(tmp_path, limit_val_batches=0 if stage == "fit" else 1.0)
    getattr(trainer, stage)(Watched(), datamodule=Changing())
    first = {"fit": 0, "validate": 100, "test": 200}[stage]
    numbers = range(first, first + SAMPLES)
    assert seen == [event for n in numbers for event in (("before", n), ("during", n), ("after", -0.5))]


def test_a_step_and_its_callbacks_get_what_the_second_hook_of_the_transfer_returns(tmp_path: Path) -> None:
    steps: list[Any] = []
    callbacks: list[Any] = []

    class Renaming(Model, internals.TransferHooks):
        def after_transfer(self, batch: Any, moved: Any) -> Any:
            return {"named": moved}

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            steps.append(batch)
            return super().training_step(batch["named"], batch_idx)

    class Watching(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            callbacks.append(batch)

    trainer = quiet(tmp_path, limit_val_batches=0, limit_train_batches=1, callbacks=[Watching()])
    trainer.fit(Renaming(), datamodule=Data())
    assert list(steps[0]) == ["named"]
    assert callbacks[0] is steps[0]
    example = torch.zeros(1, 1)  # as exports move it
    assert torch.equal(Renaming()._apply_batch_transfer_handler(example), example)
    assert list(internals.as_in_a_step(Renaming(), example)) == ["named"]


def test_epoch_results_are_what_is_averaged_over_the_epoch(tmp_path: Path) -> None:
    (*_, last) = seen_in_fit(
        tmp_path,
        lambda trainer: {
            key: (result.metric_state, result.meta.is_mean_reduction, result.has_reset)
            for key, result in internals.epoch_results(trainer).items()
        },
    )
    assert {key: {name: float(value) for name, value in state.items()} for key, (state, *_) in last.items()} == {
        "training_step.mean": {"value": 15, "cumulated_batch_size": SAMPLES}
    }
    assert last["training_step.mean"][1:] == (True, False)


def test_what_callbacks_see_can_be_added_to(tmp_path: Path) -> None:
    """No private name: ``Trainer.callback_metrics`` is the dictionary itself."""
    trainer = quiet(tmp_path)
    trainer.callback_metrics.update({"earlier": torch.tensor(3.0)})
    assert trainer.callback_metrics["earlier"] == 3


def test_current_metrics_leave_out_what_was_logged_before(tmp_path: Path) -> None:
    seen: dict[str, set[str]] = {}

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            seen["batch"] = set(internals.current_metrics(trainer))

        def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
            seen["epoch"] = set(internals.current_metrics(trainer))
            seen["public"] = set(trainer.logged_metrics)

    quiet(tmp_path, callbacks=[Look()]).fit(Model(), Data())
    assert seen["batch"] == {"mean_step", "last"}
    assert seen["epoch"] == {"mean_epoch"}
    assert seen["public"] >= {"mean_step", "mean_epoch", "score"}


def test_steps_are_logged_as_often_as_the_trainer_was_told_and_counted_by_optimiser_steps(tmp_path: Path) -> None:
    assert seen_in_fit(tmp_path, internals.logs_this_step, log_every_n_steps=3) == [False, False, True] * 2
    # the callback comes before the step is counted
    assert seen_in_fit(tmp_path, internals.steps_logged) == list(range(SAMPLES))
    assert seen_in_fit(tmp_path, internals.steps_logged, accumulate_grad_batches=2) == [0, 0, 1, 1, 2, 2]


def test_an_epoch_ends_with_its_last_batch_or_where_the_fit_may_stop(tmp_path: Path) -> None:
    assert seen_in_fit(tmp_path, internals.epoch_ends) == [False] * (SAMPLES - 1) + [True]

    def stop_at_the_third(trainer: Trainer) -> bool:
        trainer.should_stop = trainer.fit_loop.batch_idx >= 2
        return internals.epoch_ends(trainer)

    assert seen_in_fit(tmp_path, stop_at_the_third) == [False, False, True]
    assert seen_in_fit(tmp_path, stop_at_the_third, min_epochs=0, min_steps=4) == [False, False, False, True]


def test_gradients_are_half_gathered_between_the_steps(tmp_path: Path) -> None:
    assert seen_in_fit(tmp_path, internals.accumulates, accumulate_grad_batches=2) == [True, False] * 3
    assert seen_in_fit(tmp_path, internals.accumulates) == [False] * SAMPLES


def test_a_validation_after_a_batch_is_known_before_it_begins(tmp_path: Path) -> None:
    assert seen_in_fit(tmp_path, internals.validates_after_batch, val_check_interval=2) == [False, True] * 3
    assert seen_in_fit(tmp_path, internals.validates_after_batch) == [False] * (SAMPLES - 1) + [True]
    always = seen_in_fit(tmp_path, internals.validates_after_batch, val_check_interval=timedelta(0))
    assert always == [True] * SAMPLES


def test_the_interval_of_validations_is_a_time_or_a_number(tmp_path: Path) -> None:
    assert set(seen_in_fit(tmp_path, internals.validates_by_time, val_check_interval=timedelta(days=1))) == {True}
    assert set(seen_in_fit(tmp_path, internals.validates_by_time, val_check_interval=2)) == {False}


class Keeper(Callback):
    """Saves at the end of the first epoch, and leaves that epoch when the fit goes on, if asked to."""

    def __init__(self, path: Path, *, leaves: bool) -> None:
        self.path, self.leaves = path, leaves
        self.epochs: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.restarted_on_epoch_end and self.leaves:
            internals.begin_next_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append(trainer.current_epoch)
        if not self.path.exists():
            trainer.save_checkpoint(self.path)


def test_the_next_epoch_begins_where_max_steps_would_enter_the_ended_one_again(tmp_path: Path) -> None:
    path = tmp_path / "ended.ckpt"
    settings: dict[str, Any] = {"max_epochs": -1, "max_steps": 3 * SAMPLES}
    quiet(tmp_path, callbacks=[Keeper(path, leaves=False)], **settings).fit(Model(), Data())
    epochs = {}
    for leaves in (False, True):
        keeper = Keeper(path, leaves=leaves)
        trainer = quiet(tmp_path, callbacks=[keeper], **settings)
        trainer.fit(Model(), Data(), ckpt_path=str(path))
        epochs[leaves] = keeper.epochs
        assert trainer.global_step == 3 * SAMPLES
    assert epochs[True] == [1, 2]
    assert epochs[False] == [0, 1, 2]  # where this fails, begin_next_epoch is needed no longer


class Stateful(DataLoader[Tensor]):
    """Has a state, which Lightning asks for."""

    def state_dict(self) -> dict[str, Any]:
        return {"place": 5}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


def test_lightning_keeps_the_state_of_the_loaders_that_count_as_stateful(tmp_path: Path) -> None:
    samples: Any = [torch.zeros(1)] * SAMPLES
    loaders = {"a": Stateful(samples), "b": DataLoader(samples)}

    class Sum(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch["a"], batch_idx)

    path, watch = tmp_path / "loaders.ckpt", Watch(internals.training_loaders)
    trainer = quiet(tmp_path, callbacks=[watch, Watch(lambda trainer: trainer.save_checkpoint(path))])
    trainer.fit(Sum(), loaders)
    assert watch.seen[0] == list(loaders.values())
    assert [internals.is_stateful(loader) for loader in watch.seen[0]] == [True, False]
    loop = torch.load(path, weights_only=False)["loops"]["fit_loop"]["state_dict"]
    assert loop["combined_loader"] == [{"place": 5}]
    resumed = Stateful(samples)
    quiet(tmp_path, max_epochs=2).fit(Sum(), {"a": resumed, "b": DataLoader(samples)}, ckpt_path=str(path))
    assert resumed.loaded == {"place": 5}


def test_a_checkpoint_is_saved_at_once_and_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", "{step}", every_n_train_steps=1000)
    seen: list[Any] = []

    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            seen.append(internals.may_save(checkpoint, trainer))
            internals.save_now(checkpoint, trainer)
            seen.append(internals.may_save(checkpoint, trainer))
            seen.append([path.name for path in (tmp_path / "checkpoints").iterdir()])

        def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
            seen.append(internals.may_save(checkpoint, trainer))

    trainer = quiet(tmp_path, callbacks=[checkpoint, Save()], limit_train_batches=2)
    trainer.fit(Model(), Data())
    assert seen == [True, False, ["step=1.ckpt"], True, False, ["step=2.ckpt"], False]
    seen.clear()
    trainer.validate(Model(), Data(), verbose=False)
    assert seen == [False]


@pytest.mark.parametrize("told", [True, False])
def test_a_job_of_slurm_is_put_back_into_the_queue_by_lightning_as_it_was_told(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not internals.requeues(quiet(tmp_path))
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert internals.requeues(quiet(tmp_path, plugins=[SLURMEnvironment(auto_requeue=told)])) is told


@pytest.fixture
def own_handler() -> Iterator[Any]:
    def handler(*_: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


def test_the_handlers_that_the_trainer_found_are_put_back_over_ours(own_handler: Any, tmp_path: Path) -> None:
    def look(trainer: Trainer) -> Any:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return internals.handlers_before(trainer)[signal.SIGTERM]

    assert seen_in_fit(tmp_path, look, limit_train_batches=1) == [own_handler]
    assert signal.getsignal(signal.SIGTERM) is own_handler


def test_the_fit_ends_as_by_sigterm_after_the_batch(tmp_path: Path) -> None:
    watch = Watch(internals.stop_as_by_sigterm)
    trainer = quiet(tmp_path, callbacks=[watch])
    with pytest.raises(SIGTERMException):
        trainer.fit(Model(), Data())
    assert trainer.received_sigterm
    assert len(watch.seen) == 1


def test_the_averaged_copy_is_there_during_a_fit_and_can_be_forgotten(tmp_path: Path) -> None:
    average = EMAWeightAveraging(decay=0.5)
    assert internals.averaged_copy(average) is None
    watch = Watch(lambda _: internals.averaged_copy(average))
    assert internals.averages_so_far(average) == 0
    model = Model()
    quiet(tmp_path, max_epochs=1, callbacks=[average, watch]).fit(model, Data())
    averaged = watch.seen[-1]
    assert internals.averages_so_far(average) == SAMPLES
    assert isinstance(averaged, Model)
    assert averaged is not model
    assert torch.equal(averaged.layer.weight, model.layer.weight)  # the fit ends with the averages
    internals.forget_averaged_copy(average)
    assert internals.averaged_copy(average) is None
