"""Rows in files: whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.teacher import row_store
from distill.teacher.row_store import DESCRIPTION_FILE, WRITTEN_FILE, Column, RowStore

LENGTH = 12
MAPS = Column.like("maps.rows", torch.zeros(2, 3, 2, 4).contiguous(memory_format=torch.channels_last))
NUMBERS = Column.like("numbers.rows", torch.zeros(2, dtype=torch.int64))


def store(folder: Path, **identity: Any) -> RowStore:
    return RowStore(folder, {"teacher": "a", **identity}, [MAPS, NUMBERS], LENGTH)


def filled(positions: list[int]) -> list[Tensor]:
    """What these rows are to hold, packed."""
    at = torch.tensor(positions)
    return [MAPS.packed(at.float()[:, None, None, None].expand(-1, 3, 2, 4)), at]


def write(opened: RowStore, positions: list[int]) -> None:
    opened.write(np.array(positions), filled(positions))


def whole_rows(folder: Path) -> list[int]:
    """The rows that are there, each of which must hold what was written."""
    opened = store(folder)
    there = [position for position in range(LENGTH) if opened.has(np.array([position]))[0]]
    for found, expected in zip(opened.read(np.array(there, np.int64)), filled(there), strict=True):
        assert torch.equal(found, expected)
    return there


def test_rows_keep_their_memory_format(tmp_path: Path) -> None:
    opened = store(tmp_path)
    values = torch.randn(3, 3, 2, 4).contiguous(memory_format=torch.channels_last)
    opened.write(np.array([5, 0, 11]), [MAPS.packed(values), torch.tensor([1, 2, 3])])
    maps, numbers = opened.read(np.array([11, 5]))
    back = MAPS.unpacked(maps)
    assert torch.equal(back, values[[2, 0]])
    assert back.is_contiguous(memory_format=torch.channels_last)
    assert numbers.tolist() == [3, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.bool])
def test_every_type_is_read_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(LENGTH, 5).to(dtype)
    column = Column.like("x.rows", values)
    opened = RowStore(tmp_path, {}, [column], LENGTH)
    opened.write(np.arange(LENGTH), [values])
    (back,) = opened.read(np.arange(LENGTH))
    assert back.dtype == dtype
    assert torch.equal(back, values)


def test_another_process_sees_rows_after_a_commit(tmp_path: Path) -> None:
    ours, theirs = store(tmp_path), store(tmp_path)
    write(ours, [3, 4])
    assert ours.has(np.array([3, 4, 5])).tolist() == [True, True, False]
    assert not theirs.has(np.array([3, 4])).any()
    ours.commit()
    assert theirs.has(np.array([3, 4, 5])).tolist() == [True, True, False]
    assert theirs.count() == 2


def test_a_row_is_marked_after_its_data_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = store(tmp_path)
    names = {file.fileno(): Path(file.name).name for file in opened._files}
    events: list[tuple[str, str]] = []
    sync, put = os.fsync, RowStore._put

    def spying_put(self: RowStore, file: Any, offset: int, data: Any) -> None:
        events.append(("put", names[file.fileno()]))
        put(self, file, offset, data)

    def spying_sync(file: int) -> None:
        events.append(("sync", names[file]))
        sync(file)

    monkeypatch.setattr(os, "fsync", spying_sync)
    monkeypatch.setattr(RowStore, "_put", spying_put)
    write(opened, [7])
    opened.commit()
    data = [("put", "maps.rows"), ("put", "numbers.rows"), ("sync", "maps.rows"), ("sync", "numbers.rows")]
    assert events == [*data, ("put", WRITTEN_FILE), ("sync", WRITTEN_FILE)]


def in_a_child(work: Callable[[], None]) -> int:
    """The signal or exit code that ends a copy of this process."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killing_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the process kill itself before its file operation number ``step``, or in the middle of it."""
    count = 0
    put, sync, reserve = RowStore._put, os.fsync, row_store._reserve

    def count_and_kill(last_words: Callable[[], None] = lambda: None) -> None:
        nonlocal count
        if count == step:
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def dying_put(self: RowStore, file: Any, offset: int, data: Any) -> None:
        count_and_kill(lambda: put(self, file, offset, bytes(data)[: len(data) // 2]))
        put(self, file, offset, data)

    def dying_sync(file: int) -> None:
        count_and_kill()
        sync(file)

    def dying_reserve(file: Any, size: int) -> None:
        count_and_kill()
        reserve(file, size)

    monkeypatch.setattr(RowStore, "_put", dying_put)
    monkeypatch.setattr(os, "fsync", dying_sync)
    monkeypatch.setattr(row_store, "_reserve", dying_reserve)


def test_a_process_killed_at_any_point_leaves_whole_rows_and_its_store_is_continued(tmp_path: Path) -> None:
    def work() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            killing_at(step, monkeypatch)
            opened = store(folder)
            for positions in ([0, 1, 2], [3, 4, 5], [6]):
                write(opened, positions)
                opened.commit()
            opened.close()

    step, found, ended = 0, [], -signal.SIGKILL.value
    while ended == -signal.SIGKILL.value:
        folder = tmp_path / str(step)
        ended = in_a_child(work)
        found.append(whole_rows(folder))
        with_rest = store(folder)
        write(with_rest, [position for position in range(LENGTH) if position not in found[-1]])
        with_rest.close()
        assert whole_rows(folder) == list(range(LENGTH))
        step += 1
    assert ended == 0
    assert found[0] == []
    assert found[-1] == list(range(7))
    assert found == sorted(found)
    assert len({len(there) for there in found}) == 8  # marked one by one


def test_rows_of_another_origin_are_refused(tmp_path: Path) -> None:
    write(store(tmp_path), [1])
    with pytest.raises(ValueError, match="was written for another teacher: it has 'a', but 'b' is needed"):
        store(tmp_path, teacher="b")
    with pytest.raises(ValueError, match="was written for another length: it has 12, but 13 is needed"):
        RowStore(tmp_path, {"teacher": "a"}, [MAPS, NUMBERS], 13)


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    store(tmp_path).close()
    os.truncate(tmp_path / "maps.rows", 5)
    with pytest.raises(ValueError, match=r"maps\.rows has 5 bytes instead of 1152: remove"):
        store(tmp_path)
    (tmp_path / "maps.rows").unlink()
    with pytest.raises(ValueError, match=r"maps\.rows is missing: remove"):
        store(tmp_path)
    (tmp_path / DESCRIPTION_FILE).write_text("[")
    with pytest.raises(ValueError, match="cannot be read: remove"):
        store(tmp_path)


def test_rows_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps\.rows are float32 \(2, 4, 3\), but new rows are .* \(2, 5, 3\)"):
        MAPS.packed(torch.zeros(2, 3, 2, 5))


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store(tmp_path)
    write(first, [1])
    first.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    reader = store(tmp_path)
    write(reader, [2])
    reader.close()
    assert reader.has(np.array([1, 2])).tolist() == [True, False]
    assert whole_rows(tmp_path) == [1]


def test_a_full_disk_is_one_sentence_and_its_row_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = store(tmp_path)
    write(opened, [1])

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    files, opened._files = opened._files, [opened._files[0], Full(opened._files[1]), opened._files[2]]
    with pytest.raises(OSError, match=r"^the disk has no room for the 1\.26 kB of .*: make room, or give another"):
        write(opened, [2])
    opened._files = files
    opened.close()
    assert whole_rows(tmp_path) == [1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user cannot mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(small_disk: Path) -> None:
    column = Column.like("x.rows", torch.zeros(1, 1000))
    with pytest.raises(OSError, match=r"no room for the 1\.2 MB of "):
        RowStore(small_disk / "large", {}, [column], 300)
    assert not any((small_disk / "large").iterdir())
    RowStore(small_disk / "small", {}, [column], 100).close()
    assert json.loads((small_disk / "small" / DESCRIPTION_FILE).read_text())["length"] == 100
