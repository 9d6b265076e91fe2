"""Rows of tensors by position in memory-mapped files that processes share; a row is there once it is on disk."""

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

DESCRIPTION = "description.json"
WRITTEN = "written.rows"
COMMIT_SECONDS = 5.0
"""A killed process loses the rows of this time at most."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Column(NamedTuple):
    """One tensor of every row.

    ``file`` holds it; ``shape`` and ``dtype`` are those of a row as it lies there; ``order`` names the dims of a batch
    of them, ``(N, *)``, from the outermost in memory to the innermost, so that what was channels-last comes back so.
    """

    file: str
    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...]

    @classmethod
    def like(cls, file: str, rows: Tensor) -> Column:
        """The column for such rows, ``(N, *)``."""
        order = memory_order(rows)
        shape = tuple(rows.shape[dim] for dim in order[1:])
        return cls(file, shape, str(rows.dtype).removeprefix("torch."), order)

    @property
    def row_bytes(self) -> int:
        """The size of a row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self._torch_dtype.itemsize

    @property
    def _torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def packed(self, rows: Tensor) -> Tensor:
        """The rows as they lie in the file.

        Raises:
            ValueError: They have another shape or type than those before.
        """
        packed = rows.permute(self.order) if rows.ndim == len(self.order) else rows
        if tuple(packed.shape[1:]) != self.shape or packed.dtype != self._torch_dtype:
            raise UserError(
                f"the rows of {self.file} are {self.dtype} {self.shape}, but some would be {packed.dtype} "
                f"{tuple(packed.shape[1:])}: a teacher's outputs can be cached where all samples have one size"
            )
        return packed.contiguous()

    def unpacked(self, packed: Tensor) -> Tensor:
        """Undoes :meth:`packed`."""
        return packed.permute([self.order.index(dim) for dim in range(packed.ndim)])

    def from_bytes(self, rows: Tensor) -> Tensor:
        """Bytes ``(N, row_bytes)`` as packed rows."""
        return rows.view(self._torch_dtype).view(len(rows), *self.shape)


class RowStore:
    """A folder with one file a column, and one byte a row that says whether the row is there.

    All files have their full size from the beginning, so a disk that is too small shows at once. A row is written to
    its place in every column; :meth:`commit` sees to it that what was written is on disk before it marks the rows, so a
    process that is killed, or a machine that fails, leaves rows that are whole and rows that do not count. Processes on
    one machine write and read the same folder at the same time. One that may not write only reads.

    Args:
        folder: Made, or gone on with where it was left.
        identity: What the rows are, as plain data; kept in ``description.json``.
        columns: What a row holds.
        length: How many rows there are.

    Raises:
        ValueError: The folder holds rows of something else, or is damaged.
        OSError: The disk has no room; what was there stays as it was.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], columns: Sequence[Column], length: int) -> None:
        self.folder = folder
        self.columns = tuple(columns)
        self.length = length
        description = {"length": length, "columns": [column._asdict() for column in columns], **identity}
        description = json.loads(json.dumps(description))
        if not (folder / DESCRIPTION).is_file():
            self._create(description)
        self._check(description)
        self._maps = [self._mapped(column.file, column.row_bytes) for column in columns]
        self._written = self._mapped(WRITTEN, 1)[:, 0]
        self._own = np.zeros(length, np.bool_)  # of this process, whether marked yet or not
        self._last_commit = time.monotonic()
        self._open = ExitStack()
        self._files = [self._writable(name) for name in self._sizes] if os.access(folder, os.W_OK) else []

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    def count(self) -> int:
        """How many rows are there."""
        return int(np.count_nonzero(self._written))

    def has(self, positions: Positions) -> NDArray[np.bool_]:
        """Whether each of these rows can be read."""
        there: NDArray[np.bool_] = (self._written[positions] != 0) | self._own[positions]
        return there

    def read(self, positions: Positions, *, pin: bool = False) -> list[Tensor]:
        """These rows of every column, packed; each column in one go.

        Args:
            positions: Of rows that are there.
            pin: Whether to read into pinned memory, for a GPU.
        """
        columns = []
        for column, rows in zip(self.columns, self._maps, strict=True):
            buffer = torch.empty(len(positions), column.row_bytes, dtype=torch.uint8, pin_memory=pin)
            np.take(rows, positions, axis=0, out=buffer.numpy(), mode="clip")  # "raise" would copy once more
            columns.append(column.from_bytes(buffer))
        return columns

    def write(self, positions: Positions, columns: Sequence[Tensor]) -> None:
        """Writes rows, which count from the next :meth:`commit` on; now and then that comes by itself.

        Args:
            positions: The rows.
            columns: What they hold, packed.

        Raises:
            OSError: The disk is full; the rows do not count.
        """
        if not self._files:
            return
        for file, values in zip(self._files, columns, strict=False):
            rows = values.cpu().reshape(len(positions), -1).view(torch.uint8).numpy()
            for position, row in zip(positions.tolist(), rows, strict=True):
                self._put(file, position * len(row), row.data)
        self._own[positions] = True
        if time.monotonic() - self._last_commit >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Marks the rows that this process has written, once they are on disk.

        Raises:
            OSError: The disk is full; the rows do not count.
        """
        new = np.flatnonzero(self._own & (self._written == 0)) if self._files else ()
        if len(new):
            *data, written = self._files
            try:
                for file in data:
                    os.fsync(file.fileno())
            except OSError as error:
                raise self._refusal(error) from None
            for position in new:
                self._put(written, int(position), b"\1")
            os.fsync(written.fileno())
        self._last_commit = time.monotonic()

    def close(self) -> None:
        """Commits and lets the files go."""
        with self._open:
            self.commit()

    @property
    def _sizes(self) -> dict[str, int]:
        return {column.file: column.row_bytes * self.length for column in self.columns} | {WRITTEN: self.length}

    def _create(self, description: dict[str, Any]) -> None:
        """Reserves the room; the description comes last, and says that all the rest is there.

        Processes that do so at the same time do the same, and one that goes on after a kill changes nothing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, size in self._sizes.items():
                with (self.folder / name).open("ab") as file:
                    _reserve(file, size)
            with atomic_write(self.folder / DESCRIPTION) as draft:
                draft.write_text(json.dumps(description, indent=2) + "\n")
        except OSError as error:
            if not (self.folder / DESCRIPTION).is_file():
                for name in self._sizes:
                    (self.folder / name).unlink(missing_ok=True)
            raise self._refusal(error) from None

    def _check(self, description: dict[str, Any]) -> None:
        path = self.folder / DESCRIPTION
        try:
            found = json.loads(path.read_text())
            different = [key for key, value in description.items() if found.get(key) != value]
        except (ValueError, AttributeError):
            raise UserError(f"{path} cannot be read: remove {self.folder}, it will be written anew") from None
        if different:
            key = different[0]
            raise UserError(
                f"{self.folder} was written for another {key}, {found.get(key)!r} where {description[key]!r} is "
                "needed: give another folder, or remove it"
            )
        for name, size in self._sizes.items():
            file = self.folder / name
            if not file.is_file() or file.stat().st_size != size:
                there = f"{file.stat().st_size} bytes" if file.is_file() else "no file"
                raise UserError(f"{file} should have {size} bytes, but there is {there}: remove {self.folder}")

    def _mapped(self, name: str, row_bytes: int) -> NDArray[np.uint8]:
        return np.memmap(self.folder / name, np.uint8, "r", shape=(self.length, row_bytes))

    def _writable(self, name: str) -> Any:
        # mapped pages that find no room on the disk would end the process; write() says so
        return self._open.enter_context((self.folder / name).open("r+b", buffering=0))

    def _put(self, file: Any, offset: int, data: Any) -> None:
        try:
            file.seek(offset)
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: OSError) -> OSError:
        if error.errno not in FULL:
            return error
        return UserOSError(
            f"the disk has no room for the {_readable(self.size)} of {self.folder}: make room, or give another folder"
        )


def memory_order(rows: Tensor) -> tuple[int, ...]:
    """The dims of a batch from the outermost in memory to the innermost; as they are where the first is not that."""
    in_order = tuple(range(rows.ndim))
    if rows.is_contiguous():
        return in_order
    strides = rows.stride()
    order = tuple(sorted(in_order, key=lambda dim: (-strides[dim], dim)))
    return order if order[0] == 0 else in_order


def _reserve(file: Any, size: int) -> None:
    """Makes the file at least so long and takes the room for it; keeps what it holds."""
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
