"""The checkpoint in the middle of an epoch, and what a fit that resumes from it has."""

from __future__ import annotations

import signal
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MaxMetric, MeanMetric

from callbacks import ControllerTracker, DivergenceTracker
from distill import Batch
from distill.command.checkpoints import BestCheckpoint, WholeFileCheckpointIO
from distill.methods import LIX
from distill.resume.last_checkpoint import LastCheckpoint
from distill.resume.metrics_table import MetricsCSV
from distill.training.losses import TrainingLosses
from tests.methods.examples import TWO_PAIRS
from tests.processes import as_torchrun_does, run_in_processes
from tests.toys import ToyData, make_batch, network, pair_arguments, quiet_trainer

BATCH = make_batch(18) | {"x_a": make_batch(18)["x_a"][:, :4]}
TERM, USR1 = signal.SIGTERM, signal.SIGUSR1


class KilledError(RuntimeError):
    """Simulates a kill."""


class Send(Callback):
    """Sends signals to the fit in the steps of one epoch, kills it there, or stops it early."""

    def __init__(self, epoch: int, signals: dict[int, Any]) -> None:
        self.epoch = epoch
        self.signals = signals

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, index: int) -> None:
        sent = self.signals.get(index) if trainer.current_epoch == self.epoch else None
        if sent == "kill":
            raise KilledError
        if sent == "stop":
            trainer.should_stop = True
            return
        if sent is not None:
            signal.raise_signal(sent)


class Talkative(LIX):
    """Logs means, maxima and metrics over an epoch, and values of steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mean, self.highest = MeanMetric(), MaxMetric()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        output = super().training_step(batch, batch_idx)
        size = float(output["prediction"].norm())
        self.log("mine/mean", size, on_step=True, on_epoch=True, batch_size=len(batch["target"]))
        self.log("mine/largest", size, on_step=False, on_epoch=True, reduce_fx="max")
        self.mean(size)
        self.highest(size)
        if batch_idx in (0, self.trainer.num_training_batches - 1):
            self.log("mine/seldom", size, on_step=False, on_epoch=True, batch_size=len(batch["target"]))
        self.log_dict({"mine/metric": self.mean, "mine/highest": self.highest}, on_step=False, on_epoch=True)
        return output

    def on_train_epoch_end(self) -> None:  # and not that of its base
        self.log("mine/epoch", float(self.current_epoch))


def fit(
    folder: Path,
    *,
    send: Callback | None = None,
    kind: type[LIX] = Talkative,
    data: pl.LightningDataModule | None = None,
    tested: Path | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """A fit of three epochs of five steps; it resumes from ``last.ckpt`` if there is one."""
    last = folder / "checkpoints/last.ckpt"
    pl.seed_everything(5, verbose=False)
    schedule = partial(ReduceLROnPlateau, monitor="val/hard", patience=0)
    teacher = network("", BATCH["x_a"].shape[1]).eval()
    module = kind(**pair_arguments(teacher=teacher, teacher_inputs=["x_a"], lr_scheduler=schedule), **TWO_PAIRS)
    torch.rand(11 if last.is_file() else 1)
    defaults = {
        "max_epochs": 3,
        "enable_checkpointing": True,
        "logger": MetricsCSV(folder, "metrics.csv"),
        "callbacks": [
            *(DivergenceTracker(), ControllerTracker(), LearningRateMonitor(), *([send] if send else [])),
            *(BestCheckpoint(folder, "val/accuracy", "max"), LastCheckpoint(folder)),
        ],
        "plugins": [WholeFileCheckpointIO()],
        "log_every_n_steps": 1,
    }
    trainer = quiet_trainer(folder, **defaults | settings)
    data = data or ToyData(BATCH, batch_size=4)
    if tested is not None:
        trainer.test(module, data, ckpt_path=tested, verbose=False)
    trainer.fit(module, data, ckpt_path=last if last.is_file() else None)
    return module.state_dict()


def assert_as_one_never_stopped(parts: Path, whole: Path, expected: dict[str, Tensor], **settings: Any) -> None:
    resumed = fit(parts, **settings)
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name
    for name in ("metrics.csv", "divergence.csv"):
        assert (parts / name).read_text() == (whole / name).read_text(), name


def step_of(folder: Path) -> int:
    step: int = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    return step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """The folder and the weights of a fit that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder)


pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


@pytest.mark.parametrize(("epoch", "batch", "steps"), [(0, 0, 1), (0, 2, 3), (1, 3, 9), (2, 0, 11)])
def test_a_fit_stopped_in_the_middle_of_an_epoch_ends_as_a_fit_that_never_stopped(
    epoch: int, batch: int, steps: int, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(SIGTERMException):
        fit(tmp_path, send=Send(epoch, {batch: TERM}))
    assert step_of(tmp_path) == steps
    assert_as_one_never_stopped(tmp_path, *whole)


def test_a_checkpoint_on_a_signal_does_not_stop_the_fit_and_a_killed_fit_resumes_from_it(
    whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        fit(tmp_path, send=Send(1, {0: USR1, 3: "kill"}))
    assert step_of(tmp_path) == 6
    with pytest.raises(KilledError):
        fit(tmp_path, send=Send(1, {2: USR1, 3: "kill"}))
    assert step_of(tmp_path) == 8
    assert_as_one_never_stopped(tmp_path, *whole)


def test_a_fit_that_stops_early_later_still_writes_the_requested_checkpoint(
    whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(SIGTERMException):
        fit(tmp_path, send=Send(1, {0: "stop", 1: TERM}), min_epochs=3)
    assert step_of(tmp_path) == 7
    assert_as_one_never_stopped(tmp_path, *whole)


def test_a_fit_resumes_from_an_older_checkpoint_without_the_state_of_the_epoch(
    whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        fit(tmp_path, send=Send(1, {0: "kill"}))
    last = tmp_path / "checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    (checkpoint["rng_states"],) = checkpoint["rng_states"]
    del checkpoint["callbacks"]["DivergenceTracker"]["compared"]
    torch.save(checkpoint, last)
    assert_as_one_never_stopped(tmp_path, *whole)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_fit_after_a_test_of_a_checkpoint_takes_nothing_from_the_epoch_of_the_checkpoint(
    tmp_path: Path,
) -> None:
    with pytest.raises(SIGTERMException):
        fit(tmp_path, send=Send(1, {1: TERM}))
    middle, plain = tmp_path / "checkpoints/last.ckpt", tmp_path / "plain.ckpt"
    checkpoint = torch.load(middle, weights_only=True)
    del checkpoint["epoch_so_far"]
    torch.save(checkpoint, plain)
    fit(tmp_path / "one", tested=middle, max_epochs=1)
    fit(tmp_path / "other", tested=plain, max_epochs=1)
    assert (tmp_path / "one/metrics.csv").read_text() == (tmp_path / "other/metrics.csv").read_text()


def test_a_process_without_a_part_in_the_checkpoint_starts_without_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.distributed.world_size", lambda: 3)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 2)
    losses = TrainingLosses()
    losses.load_state_dict({"sums": [{"loss": (torch.ones(()), 4)}] * 2})
    assert losses._sums == {}
    losses.load_state_dict({"sums": [{}, {}, {"loss": (torch.ones(()), 4)}]})
    assert losses._sums == {"loss": (torch.ones(()), 4)}


class SendInValidation(Callback):
    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1 and not trainer.sanity_checking:
            signal.raise_signal(TERM)


@pytest.mark.parametrize("send", [Send(1, {4: TERM}), SendInValidation()], ids=["last step", "validation"])
def test_a_signal_in_the_last_step_writes_the_checkpoint_at_the_end_of_the_epoch(
    send: Callback, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(SIGTERMException):
        fit(tmp_path, send=send)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 10
    assert "epoch_so_far" not in checkpoint
    assert_as_one_never_stopped(tmp_path, *whole)


@pytest.mark.parametrize(
    ("settings", "batch", "steps"),
    [
        ({"accumulate_grad_batches": 2}, 0, 3 + 1),
        ({"val_check_interval": 2}, 1, 5 + 2),
        ({"val_check_interval": 2}, 3, 5 + 4),
        ({"val_check_interval": 1}, 0, 5 + 1),
        ({"accumulate_grad_batches": 2, "val_check_interval": 2}, 0, 3 + 1),
        ({"accumulate_grad_batches": 2, "val_check_interval": 3}, 2, 3 + 2),
        ({"limit_train_batches": 4}, 1, 4 + 2),
        ({"max_steps": 13, "max_epochs": -1}, 1, 5 + 2),
    ],
    ids=lambda case: str(case),
)
def test_the_checkpoint_waits_for_accumulated_gradients_and_the_end_of_a_validation(
    settings: dict[str, Any], batch: int, steps: int, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = fit(whole, **settings)
    with pytest.raises(SIGTERMException):
        fit(parts, send=Send(1, {batch: TERM}), **settings)
    assert step_of(parts) == steps
    assert_as_one_never_stopped(parts, whole, expected, **settings)


@pytest.mark.parametrize(("epoch", "index", "sent"), [(1, 1, "kill"), (0, -1, TERM)], ids=["killed", "stopped"])
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_steps": 13, "max_epochs": -1}, 5),
        ({"max_steps": 13}, 5),
        ({"max_steps": 9, "limit_train_batches": 4}, 4),
    ],
    ids=str,
)
def test_a_fit_with_max_steps_resumes_from_the_end_of_an_epoch_with_the_next_epoch(
    settings: dict[str, Any], steps: int, epoch: int, index: int, sent: Any, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = fit(whole, **settings)
    with pytest.raises((KilledError, SIGTERMException)):
        fit(parts, send=Send(epoch, {index % steps: sent}), **settings)
    assert step_of(parts) == steps
    assert_as_one_never_stopped(parts, whole, expected, **settings)


class Plain(ToyData):
    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.samples, batch_size=self.batch_size, shuffle=True)


class Counting(LIX):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("count", float(batch_idx))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"data": Plain(BATCH)}, "the DataLoader of the training data has no state_dict"),
        ({"kind": Counting}, "Lightning calls on_train_batch_end of Counting after that"),
    ],
    ids=["loader", "module"],
)
def test_a_fit_that_cannot_resume_in_an_epoch_resumes_from_the_last_whole_epoch(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = fit(whole, **settings)
    with (
        pytest.warns(UserWarning, match=f"no checkpoint is written in the middle of an epoch, because {reason}"),
        pytest.raises(SIGTERMException),
    ):
        fit(parts, send=Send(1, {0: USR1, 2: TERM}), **settings)
    assert step_of(parts) == 5
    assert_as_one_never_stopped(parts, whole, expected, **settings)


def test_a_previous_handler_is_called_and_restored_after_the_fit(tmp_path: Path) -> None:
    heard = []
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in (TERM, USR1)}
    try:
        handlers = {number: signal.getsignal(number) for number in (TERM, USR1)}
        with pytest.raises(SIGTERMException):
            fit(tmp_path, send=Send(0, {0: USR1, 1: TERM}))
        assert heard == [USR1, TERM]
        assert {number: signal.getsignal(number) for number in (TERM, USR1)} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_fit_after_a_stopped_fit_runs_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(SIGTERMException):
        fit(tmp_path, send=Send(0, {0: TERM}))
    fit(tmp_path)
    assert step_of(tmp_path) == 15


def fits_of_a_rank(rank: int, size: int, folder: str) -> dict[str, Any]:
    whole, parts = Path(folder, "whole"), Path(folder, "parts")
    settings: dict[str, Any] = {"strategy": "ddp", "devices": size, "data": ToyData(BATCH, batch_size=3)}
    with as_torchrun_does(rank, size), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = fit(whole, **settings)
        try:
            fit(parts, send=Send(1, {1: TERM}) if rank == 1 else None, **settings)
        except SIGTERMException:
            stopped = step_of(parts)
        return {"whole": expected, "stopped": stopped, "resumed": fit(parts, **settings)}


@pytest.mark.ddp
def test_all_processes_stop_at_the_same_step_if_one_gets_a_signal_and_resume_together(tmp_path: Path) -> None:
    for rank in run_in_processes(fits_of_a_rank, 2, str(tmp_path)):
        assert rank["stopped"] == 3 + 2
        for name, value in rank["whole"].items():
            assert torch.equal(rank["resumed"][name], value), name
    for name in ("metrics.csv", "divergence.csv"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text(), name
