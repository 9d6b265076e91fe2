"""A fit that is killed or gets a signal resumes as if it had never stopped."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from distill.cli import main
from distill.resume.last_checkpoint import LastCheckpoint
from tests.processes import start_process
from tests.waiting import wait_until

EPOCHS, STEPS = 4, 100
FIT = ["fit", "--config", "configs/mnistm/teacher.yaml", "--trainer.max_epochs", str(EPOCHS)]
SMALL = ["--data.init_args.val_size", "3800", "--data.init_args.batch_size", "2", "--trainer.limit_val_batches", "2"]
SHOWN = ["--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def run_in(logs: Path) -> Path:
    return logs / "mnistm/teacher/version_0"


def epochs_in(logs: Path) -> list[int]:
    """The epochs that have a row of training losses, so far."""
    try:
        metrics = pd.read_csv(run_in(logs) / "metrics.csv")
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return []
    return list(metrics[metrics["train/loss"].notna()]["epoch"]) if "train/loss" in metrics else []


COMMAND = [*FIT, *SMALL, *SHOWN, *QUIET]
LAST = Path("checkpoints/last.ckpt")
WAIT = "tests.resume.test_resume.WaitForSignal"


class WaitForSignal(Callback):
    """Says by a file that a fit is in the middle of its second epoch, and waits there for a signal."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, STEPS // 2):
            (last,) = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint))
            self.file.touch()
            wait_until(lambda: last._signals._save)


def run_in_a_session(command: list[str], stderr: str) -> None:
    """Runs a command of ``train.py`` as a cluster does: in a session of its own, with what it says in a file."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
    main(command)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a fit that was never stopped."""
    logs = tmp_path_factory.mktemp("whole")
    main([*COMMAND, "--logs_dir", str(logs)])
    return logs


@pytest.mark.parametrize(
    ("sent", "num_workers", "steps"),
    [
        (signal.SIGKILL, 0, STEPS),
        (signal.SIGTERM, 2, STEPS + STEPS // 2 + 1),
        (signal.SIGUSR1, 0, STEPS + STEPS // 2 + 1),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGUSR1"],
)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_fit_that_gets_a_signal_and_goes_on_ends_as_one_that_was_never_stopped(
    sent: signal.Signals, num_workers: int, steps: int, whole: Path, tmp_path: Path
) -> None:
    killed, there = tmp_path / "killed", tmp_path / "there"
    command = [*COMMAND, "--logs_dir", str(killed), "--data.init_args.num_workers", str(num_workers)]
    waits = ["--trainer.callbacks", WAIT, "--trainer.callbacks.file", str(there)]
    process = start_process(run_in_a_session, [*command, *waits], str(tmp_path / "stderr"))
    assert process.pid is not None
    last = run_in(killed) / LAST
    try:
        wait_until(lambda: there.exists() or not process.is_alive())
        written = last.stat().st_mtime_ns
        os.killpg(process.pid, sent)  # as a cluster does, which asks the workers as well
        if sent == signal.SIGUSR1:
            wait_until(lambda: last.stat().st_mtime_ns > written or not process.is_alive())
            process.kill()
        process.join()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = (tmp_path / "stderr").read_bytes()
    assert process.exitcode == (128 + sent if sent == signal.SIGTERM else -signal.SIGKILL), said.decode()
    if sent == signal.SIGTERM:
        assert b"last.ckpt resumes after batch 50 of epoch 1" in said
        assert said.endswith(b"stopped by SIGTERM: --ckpt_path last resumes from the last checkpoint\n")
    assert torch.load(last, weights_only=True)["global_step"] == steps

    main([*command, "--ckpt_path", "last"])
    resumed, expected = (torch.load(run_in(logs) / LAST, weights_only=True) for logs in (killed, whole))
    assert resumed["state_dict"].keys() == expected["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    assert epochs_in(killed) == list(range(EPOCHS))
    assert (run_in(killed) / "metrics.csv").read_text() == (run_in(whole) / "metrics.csv").read_text()
    best, other = (torch.load(run_in(logs) / "checkpoints/best.ckpt", weights_only=True) for logs in (killed, whole))
    assert best["epoch"] == other["epoch"]
    assert {path.name for path in (run_in(killed) / "checkpoints").glob("*.ckpt")} >= {"best.ckpt", "last.ckpt"}
    assert [path.name for path in run_in(killed).parent.iterdir()] == ["version_0"]
