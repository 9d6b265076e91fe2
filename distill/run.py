"""A run's folder ``logs/<name>/version_N``: where it is, and files in it that survive a kill and a second start."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning_utilities.core.rank_zero import rank_zero_only

from distill.atomic import written_whole
from distill.checkpoint import read_content


def latest_checkpoint(runs: Path, version: str | None, which: str) -> Path | None:
    """The checkpoint ``best`` or ``last`` of the newest run in a folder of runs, or of the one version named."""
    found = runs.glob(f"{version or 'version_*'}/checkpoints/{which}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def check_checkpoint(path: Path, *, continues: bool) -> None:
    """Refuses what is no checkpoint of a run.

    Args:
        path: The file.
        continues: Whether a fit is to go on from it, which takes more than weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, or is damaged, or holds too little.
    """
    content = read_content(path, mmap=True)
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise ValueError(f"{path} is no checkpoint of a run")
    if continues and "optimizer_states" not in content:
        raise ValueError(f"{path} holds weights only, but a fit goes on from all that last.ckpt holds")


def inside(folder: Path, name: str, argument: str) -> Path:
    """The path of that name below a folder, which it cannot leave.

    Args:
        folder: The folder.
        name: A relative path, mostly one name.
        argument: What the name was given as, for the error.

    Raises:
        ValueError: The name is that of the folder itself or of something outside.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
        raise ValueError(f"{argument} must be the name of a folder in {folder}, got {name!r}")
    return folder / name


def run_folder(runs: Path, version: str | None, ckpt_path: str | Path | None) -> Path:
    """The folder that a command writes to.

    Args:
        runs: The folder of all runs of one name.
        version: The run's own folder in it, if it is named.
        ckpt_path: The checkpoint that is continued or evaluated, if any.

    Returns:
        ``runs/version``; or the folder of the run to which the checkpoint belongs; or a fresh ``runs/version_N``,
        which is made here, so that two runs that start at once do not share one.

    Raises:
        ValueError: The version leads out of the folder.
    """
    if version is not None:
        return inside(runs, version, "version")
    if ckpt_path is not None and Path(ckpt_path).parent.name == "checkpoints":
        return Path(ckpt_path).absolute().parents[1]
    taken = [version_of(path) for path in runs.glob("version_*")]
    number = max((version for version in taken if isinstance(version, int)), default=-1) + 1
    while _is_first_rank():
        try:
            (runs / f"version_{number}").mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    return runs / f"version_{number}"


def version_of(folder: Path) -> int | str:
    """What a logger takes as the version of a run: N for ``version_N``, else the folder's name."""
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdigit() and folder.name == f"version_{int(number)}" else folder.name


def _is_first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


class MetricsCSV(CSVLogger):
    """Lightning's CSV logger, but a run that is continued keeps the rows before the step at which it goes on.

    Args:
        folder: The run's folder.
        file_name: The file in it, such as ``metrics.csv``.
    """

    def __init__(self, folder: Path, file_name: str) -> None:
        super().__init__(str(folder.parent), name="", version=version_of(folder))
        self.file_name = file_name

    @property
    def experiment(self) -> Any:
        """The writer behind the logger, made when it is first needed; on other ranks than 0 one that does nothing."""
        if _is_first_rank() and self._experiment is None:
            self._experiment = _ContinuingWriter(self.log_dir, self.file_name)
        return super().experiment


class _ContinuingWriter(ExperimentWriter):
    def __init__(self, log_dir: str, file_name: str) -> None:
        self.NAME_METRICS_FILE = file_name
        super().__init__(log_dir)
        self._latest: str | None = None

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if self._latest is None:
            self._keep_rows_before(step or 0)
        row = repr((sorted(metrics_dict.items()), step))  # as text, for NaN does not equal itself
        if row != self._latest:  # LastCheckpoint has logged the end of the epoch already
            super().log_metrics(metrics_dict, step)
        self._latest = row

    def _keep_rows_before(self, step: int) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            rows, self.metrics_keys = _read(path)
            rows = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) < step]
            _write(path, rows, self.metrics_keys)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """As Lightning's, but whole or not at all."""
        path = Path(self.metrics_file_path)
        _write(path, _read(path)[0], fieldnames)

    def _check_log_dir_exists(self) -> None:
        """Unlike Lightning's, deletes nothing."""


def _read(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        return list(reader), list(reader.fieldnames or [])


def _write(path: Path, rows: list[dict[str, str]], columns: list[str]) -> None:
    with written_whole(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``checkpoints/best.ckpt``: the weights of the epoch that is best by a metric.

    Args:
        folder: The run's folder.
        monitor: The metric.
        mode: ``max`` or ``min``.
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(
            folder / "checkpoints",
            "best",
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            enable_version_counter=False,
        )


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, but written whole or not at all, and read without running code from them.

    Lightning writes to the system's temporary folder and moves the file, which copies it where that folder lies on
    another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the checkpoint beside ``path``, then renames it."""
        if "://" in str(path):  # object stores write whole objects themselves
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with written_whole(path) as draft:
                torch.save(checkpoint, draft)
        except (OSError, RuntimeError) as error:  # as torch reports a full disk
            raise OSError(f"{path} cannot be written ({str(error).splitlines()[0]}): the one before is kept") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads plain data only, unless ``weights_only`` is false."""
        if weights_only is False or "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only is not False)
        content: dict[str, Any] = read_content(Path(path))
        return content
