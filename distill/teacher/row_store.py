"""Rows of tensors by position, in memory-mapped files that processes share; a row counts when it is on disk."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.atomic import atomic_write
from distill.errors import UserError, UserOSError

Positions = NDArray[np.int64]

DESCRIPTION_FILE = "description.json"
WRITTEN_FILE = "written.rows"
COMMIT_SECONDS = 5.0
"""The longest time between two commits; a killed process loses at most the rows of this time."""

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Column(NamedTuple):
    """One tensor of every row.

    ``file`` is the name of its file; ``shape`` and ``dtype`` are those of a row in the file. ``order`` lists the dims
    of a batch of rows, ``(N, *)``, from the outermost in memory to the innermost, so that a channels-last tensor is
    channels-last after reading.
    """

    file: str
    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...]

    @classmethod
    def like(cls, file: str, rows: Tensor) -> Column:
        """The column for rows with the shape, type and memory format of ``rows``, ``(N, *)``."""
        order = memory_order(rows)
        shape = tuple(rows.shape[dim] for dim in order[1:])
        return cls(file, shape, str(rows.dtype).removeprefix("torch."), order)

    @property
    def row_bytes(self) -> int:
        """The size of a row in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self._torch_dtype.itemsize

    @property
    def _torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def packed(self, rows: Tensor) -> Tensor:
        """The rows in the layout of the file.

        Raises:
            ValueError: The rows have another shape or type than the column.
        """
        packed = rows.permute(self.order) if rows.ndim == len(self.order) else rows
        if tuple(packed.shape[1:]) != self.shape or packed.dtype != self._torch_dtype:
            raise UserError(
                f"the rows of {self.file} are {self.dtype} {self.shape}, but new rows are {packed.dtype} "
                f"{tuple(packed.shape[1:])}: a teacher's outputs can be cached only if all samples have the same size"
            )
        return packed.contiguous()

    def unpacked(self, packed: Tensor) -> Tensor:
        """Packed rows in their original layout; the inverse of :meth:`packed`."""
        return packed.permute([self.order.index(dim) for dim in range(packed.ndim)])

    def from_bytes(self, rows: Tensor) -> Tensor:
        """Bytes ``(N, row_bytes)`` as packed rows."""
        return rows.view(self._torch_dtype).view(len(rows), *self.shape)


class RowStore:
    """A folder with one file per column, and a file with one byte per row that marks the written rows.

    All files have their full size from the beginning, so a disk that is too small is noticed immediately. A row is
    written to its place in every column. :meth:`commit` marks rows only after they are on disk. So if a process is
    killed or a machine fails, every marked row is complete, and the others do not count. Processes on one machine may
    write and read the same folder at the same time. A process without permission to write only reads.

    Args:
        folder: The folder; it is created, or continued if it exists.
        identity: The origin of the rows as plain data; it is stored in ``description.json``.
        columns: The tensors of a row.
        length: The number of rows.

    Raises:
        ValueError: The folder holds rows of another origin, or is damaged.
        OSError: The disk is full; existing rows do not change.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], columns: Sequence[Column], length: int) -> None:
        self.folder = folder
        self.columns = tuple(columns)
        self.length = length
        description = {"length": length, "columns": [column._asdict() for column in columns], **identity}
        description = json.loads(json.dumps(description))
        if not (folder / DESCRIPTION_FILE).is_file():
            self._create(description)
        self._check(description)
        self._maps = [self._mapped(column.file, column.row_bytes) for column in columns]
        self._written = self._mapped(WRITTEN_FILE, 1)[:, 0]
        self._written_here = np.zeros(length, np.bool_)  # by this process, committed or not
        self._last_commit = time.monotonic()
        self._open = ExitStack()
        self._files = [self._writable(name) for name in self._sizes] if os.access(folder, os.W_OK) else []

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(self._sizes.values())

    def count(self) -> int:
        """The number of committed rows."""
        return int(np.count_nonzero(self._written))

    def has(self, positions: Positions) -> NDArray[np.bool_]:
        """Whether each of these rows can be read."""
        readable: NDArray[np.bool_] = (self._written[positions] != 0) | self._written_here[positions]
        return readable

    def read(self, positions: Positions, *, pin: bool = False) -> list[Tensor]:
        """The rows at these positions, as one packed tensor per column.

        Args:
            positions: The positions of readable rows.
            pin: Whether to read into pinned memory, for a GPU.
        """
        columns = []
        for column, rows in zip(self.columns, self._maps, strict=True):
            buffer = torch.empty(len(positions), column.row_bytes, dtype=torch.uint8, pin_memory=pin)
            np.take(rows, positions, axis=0, out=buffer.numpy(), mode="clip")  # mode="raise" would make another copy
            columns.append(column.from_bytes(buffer))
        return columns

    def write(self, positions: Positions, columns: Sequence[Tensor]) -> None:
        """Writes rows, and commits if the last commit is :data:`COMMIT_SECONDS` ago.

        Args:
            positions: The positions of the rows.
            columns: The packed rows of each column.

        Raises:
            OSError: The disk is full; the rows do not count.
        """
        if not self._files:
            return
        for file, values in zip(self._files, columns, strict=False):
            rows = values.cpu().reshape(len(positions), -1).view(torch.uint8).numpy()
            for position, row in zip(positions.tolist(), rows, strict=True):
                self._put(file, position * len(row), row.data)
        self._written_here[positions] = True
        if time.monotonic() - self._last_commit >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Marks the rows that this process has written, after they are on disk.

        Raises:
            OSError: The disk is full; the rows do not count.
        """
        new = np.flatnonzero(self._written_here & (self._written == 0)) if self._files else ()
        if len(new):
            *data, written = self._files
            try:
                for file in data:
                    os.fsync(file.fileno())
            except OSError as error:
                raise self._explained(error) from None
            for position in new:
                self._put(written, int(position), b"\1")
            os.fsync(written.fileno())
        self._last_commit = time.monotonic()

    def close(self) -> None:
        """Commits and closes the files."""
        with self._open:
            self.commit()

    @property
    def _sizes(self) -> dict[str, int]:
        return {column.file: column.row_bytes * self.length for column in self.columns} | {WRITTEN_FILE: self.length}

    def _create(self, description: dict[str, Any]) -> None:
        """Creates the files in their full size; the description is written last and marks them as complete.

        This can safely run in several processes at the same time, and again after a kill.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, size in self._sizes.items():
                with (self.folder / name).open("ab") as file:
                    _reserve(file, size)
            with atomic_write(self.folder / DESCRIPTION_FILE) as draft:
                draft.write_text(json.dumps(description, indent=2) + "\n")
        except OSError as error:
            if not (self.folder / DESCRIPTION_FILE).is_file():
                for name in self._sizes:
                    (self.folder / name).unlink(missing_ok=True)
            raise self._explained(error) from None

    def _check(self, description: dict[str, Any]) -> None:
        path = self.folder / DESCRIPTION_FILE
        try:
            found = json.loads(path.read_text())
            different = [key for key, value in description.items() if found.get(key) != value]
        except (ValueError, AttributeError):
            raise UserError(f"{path} cannot be read: remove {self.folder}, and it will be created again") from None
        if different:
            key = different[0]
            raise UserError(
                f"{self.folder} was written for another {key}: it has {found.get(key)!r}, but {description[key]!r} is "
                "needed; give another folder, or remove this one"
            )
        for name, size in self._sizes.items():
            file = self.folder / name
            if not file.is_file():
                raise UserError(f"{file} is missing: remove {self.folder}")
            if file.stat().st_size != size:
                raise UserError(f"{file} has {file.stat().st_size} bytes instead of {size}: remove {self.folder}")

    def _mapped(self, name: str, row_bytes: int) -> NDArray[np.uint8]:
        return np.memmap(self.folder / name, np.uint8, "r", shape=(self.length, row_bytes))

    def _writable(self, name: str) -> Any:
        # write() raises an error on a full disk; writing to mapped memory would end the process
        return self._open.enter_context((self.folder / name).open("r+b", buffering=0))

    def _put(self, file: Any, offset: int, data: Any) -> None:
        try:
            file.seek(offset)
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._explained(error) from None

    def _explained(self, error: OSError) -> OSError:
        if error.errno not in DISK_FULL_ERRNOS:
            return error
        return UserOSError(
            f"the disk has no room for the {_readable(self.size)} of {self.folder}: make room, or give another folder"
        )


def memory_order(rows: Tensor) -> tuple[int, ...]:
    """The dims of a batch from the outermost in memory to the innermost; in order if dim 0 is not the outermost."""
    in_order = tuple(range(rows.ndim))
    if rows.is_contiguous():
        return in_order
    strides = rows.stride()
    order = tuple(sorted(in_order, key=lambda dim: (-strides[dim], dim)))
    return order if order[0] == 0 else in_order


def _reserve(file: Any, size: int) -> None:
    """Extends a file to this size and reserves its space on disk; keeps its content."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    elif os.fstat(file.fileno()).st_size < size:
        file.truncate(size)


def _readable(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
