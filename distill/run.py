"""A run's folder ``logs/<name>/version_N``: where it is, and files in it that survive a kill and a second start."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning_utilities.core.rank_zero import rank_zero_only

from distill.atomic import written_whole


def latest_checkpoint(runs: Path, version: str | None, which: str) -> Path | None:
    """The checkpoint ``best`` or ``last`` of the newest run in a folder of runs, or of the one version named."""
    found = runs.glob(f"{version or 'version_*'}/checkpoints/{which}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def run_folder(runs: Path, version: str | None, ckpt_path: str | Path | None) -> Path:
    """The folder that a command writes to.

    Args:
        runs: The folder of all runs of one name.
        version: The run's own folder in it, if it is named.
        ckpt_path: The checkpoint that is continued or evaluated, if any.

    Returns:
        ``runs/version``; or the folder of the run to which the checkpoint belongs; or a fresh ``runs/version_N``,
        which is made here, so that two runs that start at once do not share one.
    """
    if version is not None:
        return runs / version
    if ckpt_path is not None and Path(ckpt_path).parent.name == "checkpoints":
        return Path(ckpt_path).parents[1]
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
    return int(number) if number.isdigit() and number != folder.name else folder.name


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
        self._continued = False

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if not self._continued:
            self._keep_rows_before(step or 0)
            self._continued = True
        super().log_metrics(metrics_dict, step)

    def _keep_rows_before(self, step: int) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            self.metrics_keys = list(reader.fieldnames or [])
            rows = [row for row in reader if int(row["step"]) < step]
        with written_whole(path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)

    def _check_log_dir_exists(self) -> None:
        """Unlike Lightning's, deletes nothing."""


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, but a kill while one is written leaves the previous one whole.

    Lightning writes to the system's temporary folder and moves the file, which copies it where that folder lies on
    another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the checkpoint beside ``path``, then renames it."""
        if "://" in str(path):  # object stores write whole objects themselves
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with written_whole(path) as draft:
            torch.save(checkpoint, draft)
