"""A run's folder, and the files in it that outlive a kill."""

from __future__ import annotations

import csv
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor

from distill.atomic import atomic_write
from distill.command.checkpoints import BestCheckpoint, WholeFileCheckpointIO
from distill.command.run_folder import check_checkpoint, latest_checkpoint, run_folder
from distill.resume.last_checkpoint import LastCheckpoint
from distill.resume.metrics_table import MetricsCSV, version_of
from tests.full_disk import small_files
from tests.toys import ToyData, make, quiet_trainer


class KilledError(RuntimeError):
    """Stands for a kill."""


def test_runs_that_start_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: run_folder(tmp_path, None, None), range(24)))
    assert {folder.name for folder in folders} == {f"version_{number}" for number in range(24)}
    assert all(folder.is_dir() for folder in folders)


def test_a_run_is_numbered_after_the_highest_there_is(tmp_path: Path) -> None:
    for name in ("version_2", "version_10", "version_best", "other"):
        (tmp_path / name).mkdir()
    assert run_folder(tmp_path, None, None).name == "version_11"


def test_a_checkpoint_leads_to_the_folder_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    assert run_folder(runs, None, "else/version_3/checkpoints/last.ckpt") == tmp_path / "else" / "version_3"
    assert run_folder(runs, None, "somewhere/model.ckpt") == runs / "version_0"
    assert run_folder(runs, "mine", "else/version_3/checkpoints/last.ckpt") == runs / "mine"


@pytest.mark.parametrize(
    ("name", "version"), [("version_7", 7), ("version_07", "version_07"), ("7", "7"), ("mine", "mine")]
)
def test_loggers_write_to_the_very_folder(name: str, version: int | str, tmp_path: Path) -> None:
    assert version_of(tmp_path / name) == version
    assert MetricsCSV(tmp_path / name, "metrics.csv").log_dir == str(tmp_path / name)


def test_the_latest_checkpoint_is_that_of_the_run_written_to_last(tmp_path: Path) -> None:
    for age, name in enumerate(["version_1", "version_0", "mine"]):
        path = tmp_path / name / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert latest_checkpoint(tmp_path, None, "last") == tmp_path / "version_1/checkpoints/last.ckpt"
    assert latest_checkpoint(tmp_path, "mine", "last") == tmp_path / "mine/checkpoints/last.ckpt"
    assert latest_checkpoint(tmp_path, None, "best") is None
    os.utime(path, (2000, 2000))  # a run with a name of the user's is one, too
    assert latest_checkpoint(tmp_path, None, "last") == tmp_path / "mine/checkpoints/last.ckpt"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with atomic_write(path) as draft:
        draft.write_text("old")
        assert not path.exists()
        assert draft.suffix == ".csv"

    def stop_in_the_middle() -> None:
        with atomic_write(path) as draft:
            draft.write_text("ne")
            raise KilledError

    with pytest.raises(KilledError):
        stop_in_the_middle()
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.skipif(os.name == "nt", reason="no umask")
def test_a_file_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "x.txt") as draft:
            draft.write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == 0o640


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(folder: Path, *rows: tuple[int, dict[str, Tensor | float]]) -> None:
    """As a process that ends after these rows."""
    logger = MetricsCSV(folder, "metrics.csv")
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
        logger.save()


def test_a_run_that_goes_on_keeps_the_rows_before_its_step(tmp_path: Path) -> None:
    log(tmp_path, (0, {"a": 0.0}), (1, {"a": 1.0}), (2, {"a": 2.0, "b": 5.0}))
    log(tmp_path, (2, {"a": 2.5}), (3, {"c": 3.0}))
    assert [(row["step"], row["a"], row["b"], row["c"]) for row in rows_of(tmp_path)] == [
        ("0", "0.0", "", ""),
        ("1", "1.0", "", ""),
        ("2", "2.5", "", ""),
        ("3", "", "", "3.0"),
    ]


def test_a_run_that_begins_anew_keeps_no_rows(tmp_path: Path) -> None:
    log(tmp_path, (0, {"a": 0.0}), (1, {"a": 1.0}))
    log(tmp_path, (0, {"a": 9.0}))
    assert [row["a"] for row in rows_of(tmp_path)] == ["9.0"]


def test_a_row_torn_by_a_crash_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    log(tmp_path, (0, {"a": 0.0}), (1, {"a": 1.0}))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2.")
    log(tmp_path, (2, {"a": 2.0}))
    assert [row["step"] for row in rows_of(tmp_path)] == ["0", "1", "2"]


def test_the_same_row_twice_is_one_row(tmp_path: Path) -> None:
    log(tmp_path, (4, {"a": float("nan"), "b": 1.0}), (4, {"b": 1.0, "a": float("nan")}), (5, {"a": 1.0}))
    assert [row["step"] for row in rows_of(tmp_path)] == ["4", "5"]


class KilledAfter(LastCheckpoint):
    """Stops a fit at the worst time: the checkpoint of an epoch is written, and what follows it is not done."""

    epoch = -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch == self.epoch:
            raise KilledError

    @property
    def state_key(self) -> str:
        return super().state_key.replace("KilledAfter", "LastCheckpoint")


def fit(folder: Path, schedule: Any, *, stop_after: int = -1, goes_on: bool = False) -> dict[str, Tensor]:
    pl.seed_everything(5, verbose=False)
    module = make("KD", lr_scheduler=schedule)
    last = KilledAfter(folder)
    last.epoch = stop_after
    trainer = quiet_trainer(
        folder,
        max_epochs=6,
        enable_checkpointing=True,
        logger=MetricsCSV(folder, "metrics.csv"),
        callbacks=[BestCheckpoint(folder, "val/accuracy", "max"), last],
        plugins=[WholeFileCheckpointIO()],
    )
    trainer.fit(module, ToyData(), ckpt_path=folder / "checkpoints/last.ckpt" if goes_on else None)
    return module.state_dict()


SCHEDULES = {
    "by epochs": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
    "on a plateau": lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/accuracy", factor=0.5, patience=0),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_kill_right_after_the_checkpoint_loses_no_row_and_no_step_of_the_schedule(
    schedule: str, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = fit(whole, SCHEDULES[schedule])
    with pytest.raises(KilledError):
        fit(parts, SCHEDULES[schedule], stop_after=2)
    torch.rand(3)
    resumed = fit(parts, SCHEDULES[schedule], goes_on=True)
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name
    assert (parts / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert sorted(path.name for path in (parts / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_new_fit_in_an_old_folder_takes_the_place_of_its_checkpoints(tmp_path: Path) -> None:
    fit(tmp_path, None)
    before = (tmp_path / "checkpoints/best.ckpt").stat().st_mtime_ns
    fit(tmp_path, None)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert (tmp_path / "checkpoints/best.ckpt").stat().st_mtime_ns > before


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_checkpoints_of_strangers_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / "trap.ckpt"
    torch.save({"pytorch-lightning_version": "2", "state_dict": {}, "x": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(ValueError, match="loading anything else could run its code"):
        WholeFileCheckpointIO().load_checkpoint(path)
    with pytest.raises(ValueError, match=r"trap.ckpt is not a file of plain weights"):
        check_checkpoint(path, resumes=False)
    assert not (tmp_path / "sprung").exists()


def test_what_is_no_checkpoint_of_a_run_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, None)
    best, last = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    check_checkpoint(best, resumes=False)
    check_checkpoint(last, resumes=True)
    with pytest.raises(ValueError, match=r"best.ckpt holds weights only; a fit resumes from last\.ckpt"):
        check_checkpoint(best, resumes=True)
    half = tmp_path / "half.ckpt"
    half.write_bytes(last.read_bytes()[:5000])
    empty = tmp_path / "empty.ckpt"
    empty.touch()
    weights = tmp_path / "weights.pt"
    torch.save({"weight": torch.ones(2)}, weights)
    for path, sentence in {
        half: "not a whole checkpoint",
        empty: "not a file of weights: it is empty",
        weights: "not a checkpoint of",
    }.items():
        with pytest.raises(ValueError, match=f"{path.name} is {sentence}"):
            check_checkpoint(path, resumes=False)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*none.ckpt"):
        check_checkpoint(tmp_path / "none.ckpt", resumes=False)


def test_a_full_disk_leaves_the_checkpoint_before_and_the_fit_goes_on_from_it(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = fit(whole, None)
    with pytest.raises(KilledError):
        fit(parts, None, stop_after=2)
    last = parts / "checkpoints/last.ckpt"
    before = last.read_bytes()
    with (
        small_files(4000),
        pytest.raises(OSError, match=r"last\.ckpt cannot be written \(.*\): the previous checkpoint is kept"),
    ):
        fit(parts, None, goes_on=True)
    assert last.read_bytes() == before
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    resumed = fit(parts, None, goes_on=True)
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name
    assert (parts / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFileCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(AttributeError):
        WholeFileCheckpointIO().save_checkpoint({"epoch": 2, "x": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
