"""A fit that is killed goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from distill.cli import main

EPOCHS = "60"
FIT = ["fit", "--config", "configs/mnistm/teacher.yaml", "--trainer.max_epochs", EPOCHS, "--trainer.accelerator", "cpu"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
SMALL = ["--data.init_args.val_size", "3800", "--trainer.log_every_n_steps", "1"]


def last_checkpoint(logs: Path) -> Path:
    return logs / "mnistm/teacher/version_0/checkpoints/last.ckpt"


def test_a_fit_killed_and_resumed_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [*FIT, *SMALL, *QUIET]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "train.py", *command, "--logs_dir", str(killed)],
        env=one_thread,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not last_checkpoint(killed).is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = torch.load(last_checkpoint(killed), weights_only=True)["epoch"]
    assert 0 <= reached < int(EPOCHS) - 1

    main([*command, "--logs_dir", str(killed), "--ckpt_path", "last"])
    main([*command, "--logs_dir", str(whole)])
    resumed, expected = (torch.load(last_checkpoint(logs), weights_only=True)["state_dict"] for logs in (killed, whole))
    assert resumed.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name

    metrics = pd.read_csv(last_checkpoint(killed).parents[1] / "metrics.csv")
    epochs = metrics[metrics["train/loss"].notna()]["epoch"]
    assert list(epochs) == list(range(int(EPOCHS)))
    assert [path.name for path in (killed / "mnistm/teacher").iterdir()] == ["version_0"]
