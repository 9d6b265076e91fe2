"""``metrics.csv``: a table that a resumed run continues."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor

from distill.atomic import atomic_write


def version_of(folder: Path) -> int | str:
    """The version of a run for a logger: N for ``version_N``, otherwise the folder's name."""
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdigit() and folder.name == f"version_{int(number)}" else folder.name


def is_first_rank() -> bool:
    """Whether this process has rank 0, the rank that writes files."""
    return getattr(rank_zero_only, "rank", 0) == 0


class MetricsCSV(CSVLogger):
    """Lightning's CSV logger, but a resumed run keeps the rows of the steps before it.

    Args:
        folder: The run's folder.
        file_name: The file in it, such as ``metrics.csv``.
    """

    def __init__(self, folder: Path, file_name: str) -> None:
        super().__init__(str(folder.parent), name="", version=version_of(folder))
        self.file_name = file_name
        self._table: _Table | None = None

    @property
    def experiment(self) -> Any:
        """The writer of the table, created on first use; on ranks other than 0 a dummy."""
        if not is_first_rank():
            return super().experiment
        if self._table is None:
            self._table = _Table(Path(self.log_dir, self.file_name))
        return self._table

    def finalize(self, status: str) -> None:
        """Writes the pending rows."""
        if self._table is not None:
            self.save()


class _Table:
    """Replaces CSVLogger's ``ExperimentWriter``, which deletes an existing file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._latest: str | None = None
        self._hparams: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Writes ``hparams.yaml`` beside the table."""
        self._hparams.update(params)
        save_hparams_to_yaml(str(self.path.with_name("hparams.yaml")), self._hparams)

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """Adds a row that :meth:`save` writes later, unless it equals the previous row."""
        if self._latest is None:
            self._keep_rows_before(step)
        row = repr((sorted(metrics.items()), step))  # compared as text, because NaN does not equal itself
        if row != self._latest:  # at the end of an epoch LastCheckpoint may have logged the row already
            values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
            self.metrics.append({**values, "step": step})
        self._latest = row

    def save(self) -> None:
        """Writes the pending rows; rewrites the whole table if there is a new column."""
        if not self.metrics:
            return
        columns = sorted({*self._columns}.union(*self.metrics))
        if columns != self._columns:
            _write(self.path, _read(self.path)[0] if self.path.is_file() else [], columns)
            self._columns = columns
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerows(self.metrics)
        self.metrics = []

    def _keep_rows_before(self, step: int) -> None:
        if self.path.is_file():
            rows, self._columns = _read(self.path)
            rows = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) < step]
            _write(self.path, rows, self._columns)


def _read(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        return list(reader), list(reader.fieldnames or [])


def _write(path: Path, rows: list[dict[str, str]], columns: list[str]) -> None:
    with atomic_write(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
