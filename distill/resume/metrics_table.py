"""``metrics.csv``: a table that survives a kill and a second start."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning_utilities.core.rank_zero import rank_zero_only

from distill.atomic import atomic_write


def version_of(folder: Path) -> int | str:
    """What a logger takes as the version of a run: N for ``version_N``, else the folder's name."""
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdigit() and folder.name == f"version_{int(number)}" else folder.name


def is_first_rank() -> bool:
    """Whether this process is the one that writes."""
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
        if is_first_rank() and self._experiment is None:
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
    with atomic_write(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
