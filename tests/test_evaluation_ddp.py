"""Scores of two processes are those of one, however many samples there are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule

from callbacks import DivergenceTracker
from datamodules import PairedDataModule, Splits, TensorPairs
from distill.cli import main
from tests.processes import as_torchrun_does, run_in_processes
from tests.study.test_study import STUDY
from tests.toys import CLASSES, make, make_batch, quiet_trainer


class Uneven(PairedDataModule):
    """Twelve samples to train on, seven to validate and five to test, of which two processes have no equal shares."""

    num_classes = CLASSES
    modalities = ("x_a", "x_b")

    def make_splits(self) -> Splits:
        parts = (make_batch(count, seed) for seed, count in enumerate((12, 7, 5)))
        return Splits(*(TensorPairs({name: x for name, x in part.items() if name != "index"}) for part in parts))


def scores_of(folder: Path, data: LightningDataModule, **settings: Any) -> dict[str, float]:
    """What a validation and a test say."""
    torch.manual_seed(0)
    module = make("KD")
    trainer = quiet_trainer(folder, max_epochs=1, callbacks=[DivergenceTracker()], **settings)
    trainer.validate(module, data, verbose=False)
    before = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (after,) = trainer.test(module, data, verbose=False)
    several = {"val": data.val_dataloader(), "test": data.test_dataloader()}
    quiet = quiet_trainer(folder, **settings)
    (of_several, _) = quiet.validate(module, several, verbose=False)
    assert before["val/accuracy"] == of_several["val/accuracy"]
    return before | dict(after) | dict(of_several)


def scores_in_part(rank: int, size: int, folder: str, batch_size: int) -> dict[str, float]:
    with as_torchrun_does(rank, size):
        return scores_of(Path(folder), Uneven(batch_size=batch_size), strategy="ddp", devices=size)


@pytest.mark.ddp
@pytest.mark.parametrize(("processes", "batch_size"), [(2, 1), (2, 4), (3, 2)])
def test_scores_and_divergence_of_uneven_shares_are_those_of_one_process(
    processes: int, batch_size: int, tmp_path: Path
) -> None:
    expected = scores_of(tmp_path / "alone", Uneven())
    for found in run_in_processes(scores_in_part, processes, str(tmp_path / "parts"), batch_size):
        assert found.keys() == expected.keys()
        assert {"val/accuracy", "test/accuracy", "test/hard", "test/ncjsd", "test/cmd"} <= found.keys()
        assert found["val/accuracy/test"] == pytest.approx(found["test/accuracy"])
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def fit_in_part(rank: int, size: int, folder: str) -> list[float]:
    with as_torchrun_does(rank, size):
        trainer = quiet_trainer(Path(folder), callbacks=[DivergenceTracker()], strategy="ddp", devices=size)
        trainer.fit(make("hint and relations"), Uneven(batch_size=3))  # its terms gather samples in training
    return [float(value) for name, value in sorted(trainer.callback_metrics.items()) if name.startswith("val/")]


@pytest.mark.ddp
def test_a_fit_validates_uneven_shares_without_waiting_for_ever(tmp_path: Path) -> None:
    first, second = run_in_processes(fit_in_part, 2, str(tmp_path))
    assert first == second
    assert len(first) > 5


def test_fewer_samples_than_processes_are_one_sentence() -> None:
    class Processes:
        """As much of a trainer of eight processes as is asked."""

        distributed_sampler_kwargs: ClassVar = {"num_replicas": 8, "rank": 1}
        _accelerator_connector = SimpleNamespace(use_distributed_sampler=True)

    data = Uneven()
    data.setup()
    data.trainer = Processes()  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match="5 samples to test on cannot be shared by 8 processes: each process needs one"
    ):
        data.test_dataloader()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.ddp
def test_two_processes_of_the_command_line_write_the_test_scores_of_one(tmp_path: Path) -> None:
    config = {part: STUDY["base"][part] for part in ("model", "data")} | {"logs_dir": str(tmp_path)}
    config["data"] = {"class_path": "datamodules.GaussianPair", "init_args": {"test_size": 37, "batch_size": 8}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    command = ["test", "--config", str(tmp_path / "run.yaml"), "--trainer.accelerator", "cpu", *quiet]
    command += ["--trainer.callbacks+=DivergenceTracker"]
    main([*command, "--name", "alone", "--trainer.devices", "1"])
    environment = os.environ | {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    two = ["--name", "two", "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    subprocess.run([sys.executable, "train.py", *command, *two], check=True, env=environment)
    alone, both = (pd.read_csv(tmp_path / name / "version_0/test.csv") for name in ("alone", "two"))
    assert set(alone) == set(both)
    assert (alone["test/accuracy"] * 37 % 1).round(4).isin([0, 1]).all()
    pd.testing.assert_frame_equal(alone[sorted(alone)], both[sorted(alone)], rtol=1e-5)
