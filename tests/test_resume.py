"""A fit that is killed goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from distill.cli import main
from tests.waiting import wait_until

EPOCHS = 40
FIT = ["fit", "--config", "configs/mnistm/teacher.yaml", "--trainer.max_epochs", str(EPOCHS)]
SMALL = ["--data.init_args.val_size", "3800", "--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"]
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


COMMAND = [*FIT, *SMALL, *QUIET]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a fit that was never stopped."""
    logs = tmp_path_factory.mktemp("whole")
    main([*COMMAND, "--logs_dir", str(logs)])
    return logs


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1], ids=lambda sent: sent.name)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_fit_killed_and_resumed_ends_as_one_that_was_never_stopped(
    sent: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    killed, command = tmp_path / "killed", COMMAND
    process = subprocess.Popen(
        [sys.executable, "train.py", *command, "--logs_dir", str(killed)],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: len(epochs_in(killed)) > 2 or process.poll() is not None, 120)
    finally:
        process.send_signal(sent)
        ended = process.wait(60)
    assert ended == (128 + sent if sent == signal.SIGTERM else -sent)
    last = Path("checkpoints/last.ckpt")
    reached = torch.load(run_in(killed) / last, weights_only=True)["epoch"]
    assert 0 < reached < EPOCHS - 1

    main([*command, "--logs_dir", str(killed), "--ckpt_path", "last"])
    resumed, expected = (torch.load(run_in(logs) / last, weights_only=True) for logs in (killed, whole))
    assert resumed["state_dict"].keys() == expected["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    assert epochs_in(killed) == list(range(EPOCHS))
    assert (run_in(killed) / "metrics.csv").read_text() == (run_in(whole) / "metrics.csv").read_text()
    best, other = (torch.load(run_in(logs) / "checkpoints/best.ckpt", weights_only=True) for logs in (killed, whole))
    assert best["epoch"] == other["epoch"]
    assert {path.name for path in (run_in(killed) / "checkpoints").glob("*.ckpt")} >= {"best.ckpt", "last.ckpt"}
    assert [path.name for path in run_in(killed).parent.iterdir()] == ["version_0"]
