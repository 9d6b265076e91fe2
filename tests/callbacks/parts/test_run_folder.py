from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks.parts.run_folder import run_folder


def test_a_run_has_the_folder_of_its_first_logger(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "name", "version"), CSVLogger(tmp_path, "other")]
    trainer = Trainer(logger=loggers, accelerator="cpu")
    assert run_folder(trainer) == tmp_path / "name" / "version"


def test_a_run_without_loggers_has_its_root_folder(tmp_path: Path) -> None:
    assert run_folder(Trainer(logger=False, accelerator="cpu", default_root_dir=tmp_path)) == tmp_path


def test_a_trial_run_has_no_folder(tmp_path: Path) -> None:
    assert run_folder(Trainer(fast_dev_run=True, accelerator="cpu", default_root_dir=tmp_path)) is None
