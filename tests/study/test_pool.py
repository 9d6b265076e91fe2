"""The pool of processes behind a study: order, failures, processes that die, and none left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from distill.atomic import atomic_write
from distill.study.pool import run_with_dependencies
from tests.processes import start_process
from tests.waiting import is_running, wait_until

Item = tuple[str, Path]


def work(item: Item) -> None:
    """Leaves a line with its process and the time, then does what its name says."""
    name, folder = item
    with (folder / name).open("a") as file:
        file.write(f"{os.getpid()} {time.monotonic()}\n")
    first = len(attempts(item)) == 1
    if name.startswith("fails"):
        raise ValueError(f"{name} on purpose")
    if name.startswith("exits"):
        raise SystemExit("left")
    if name.startswith("dies always") or (name.startswith("dies once") and first):
        wait_until(lambda: len(list(folder.iterdir())) > 1)  # so that another one is at work
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("sleeps"):
        time.sleep(60)
    if name.startswith("naps"):
        time.sleep(0.3)
    with (folder / name).open("a") as file:
        file.write(f"ended {time.monotonic()}\n")


def attempts(item: Item) -> list[int]:
    """The processes that began with the item."""
    name, folder = item
    lines = (folder / name).read_text().splitlines() if (folder / name).exists() else []
    return [int(line.split()[0]) for line in lines if not line.startswith("ended")]


def span(item: Item) -> tuple[float, float]:
    begun, ended = (float(line.split()[1]) for line in (item[1] / item[0]).read_text().splitlines())
    return begun, ended


def run(after: dict[str, str | None], folder: Path, workers: int = 2) -> dict[str, str | None]:
    """What became of the items, each after those that are named, in the order in which they ended."""
    items = {
        (name, folder): [] if other is None else [(o, folder) for o in other.split(", ")]
        for name, other in after.items()
    }
    ended = run_with_dependencies(work, items, workers=workers)
    return {item[0]: None if error is None else str(error) for item, error in ended}


def test_items_wait_for_what_they_depend_on_and_no_more_work_at_once_than_workers(tmp_path: Path) -> None:
    after: dict[str, str | None] = {
        "naps c": "naps a, naps b",
        "naps b": "naps a",
        "naps a": None,
        "naps 1": None,
        "naps 2": None,
        "naps 3": None,
    }
    assert run(after, tmp_path) == dict.fromkeys(after)
    spans = {name: span((name, tmp_path)) for name in after}
    assert spans["naps a"][1] < spans["naps b"][0]
    assert spans["naps b"][1] < spans["naps c"][0]
    at_once = [sum(begun <= now < ended for begun, ended in spans.values()) for now, _ in spans.values()]
    assert max(at_once) == 2
    assert len({pid for name in after for pid in attempts((name, tmp_path))}) == 2  # they serve item after item


def test_what_depends_on_a_failure_ends_with_it_untried_and_the_others_finish(tmp_path: Path) -> None:
    ended = run({"c": "other, b", "b": "fails", "fails": None, "exits": None, "other": None}, tmp_path)
    on_purpose = "fails on purpose"
    assert ended == {"fails": on_purpose, "b": on_purpose, "c": on_purpose, "exits": "left", "other": None}
    assert not attempts(("b", tmp_path))
    assert not attempts(("c", tmp_path))


def test_an_item_whose_process_dies_is_tried_once_more_and_the_others_are_not_disturbed(tmp_path: Path) -> None:
    after: dict[str, str | None] = {
        "dies always": None,
        "naps 1": None,
        "dies once": None,
        "naps 2": None,
        "last": "naps 1",
    }
    ended = run(after, tmp_path)
    died = "its process died, killed or out of memory"
    assert ended == {"dies always": died, "naps 1": None, "dies once": None, "naps 2": None, "last": None}
    begun = {name: len(attempts((name, tmp_path))) for name in after}
    assert begun == {"dies always": 2, "naps 1": 1, "dies once": 2, "naps 2": 1, "last": 1}


def test_a_process_that_dies_idle_costs_nothing(tmp_path: Path) -> None:
    items: dict[Item, list[Item]] = {("a", tmp_path): [], ("b", tmp_path): [("a", tmp_path)]}
    ended = run_with_dependencies(work, items, workers=1)
    assert next(ended) == (("a", tmp_path), None)
    (pid,) = attempts(("a", tmp_path))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    assert list(ended) == [(("b", tmp_path), None)]


def test_a_caller_that_stops_early_leaves_no_process_at_work(tmp_path: Path) -> None:
    sleeper: Item = ("sleeps", tmp_path)
    items: dict[Item, list[Item]] = {sleeper: [], ("quick", tmp_path): []}
    ended = run_with_dependencies(work, items, workers=2)
    next(ended)
    wait_until(lambda: bool(attempts(sleeper)))
    begun = time.monotonic()
    ended.close()  # type: ignore[attr-defined]
    wait_until(lambda: not is_running(attempts(sleeper)[0]))
    assert time.monotonic() - begun < 10


def work_with_a_child(item: Item) -> None:
    """Starts a process, as loading data does, and leaves the numbers of both."""
    name, folder = item
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    with atomic_write(folder / f"{name}.pids") as draft:
        draft.write_text(f"{os.getpid()} {child.pid}")
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def run_one(folder: Path) -> None:
    list(run_with_dependencies(work_with_a_child, {("a", folder): []}, workers=1))


def pids_in(folder: Path) -> list[int]:
    return [int(pid) for path in folder.glob("*.pids") for pid in path.read_text().split()]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_when_a_caller_is_killed_its_processes_and_those_that_they_started_end_too(tmp_path: Path) -> None:
    caller = start_process(run_one, tmp_path)
    wait_until(lambda: len(pids_in(tmp_path)) == 2)
    caller.kill()
    wait_until(lambda: not any(map(is_running, pids_in(tmp_path))), 10)
    caller.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_process_that_is_killed_leaves_none_that_it_started(tmp_path: Path) -> None:
    ((_, error),) = run_with_dependencies(work_with_a_child, {("dies", tmp_path): []}, workers=1)
    assert "its process died" in str(error)
    wait_until(lambda: not any(map(is_running, pids_in(tmp_path))), 10)


@pytest.mark.parametrize("after", [{"a": "a"}, {"a": "missing"}, {"a": "b", "b": "a"}])
def test_a_dependency_that_can_never_end_is_refused(after: dict[str, str | None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="depends on itself, or on something that is not an item"):
        run(after, tmp_path)
