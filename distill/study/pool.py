"""Work in the order of its dependencies, done by processes that are reused."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from distill.errors import UserError

Item = TypeVar("Item", bound=Hashable)

ATTEMPTS = 2

WORKER = "worker-"


class ProcessDiedError(RuntimeError):
    """The process that worked on an item was killed, for example because the memory was full."""


def run_with_dependencies(
    work: Callable[[Item], None],
    after: Mapping[Item, Collection[Item]],
    *,
    workers: int,
    preload: Sequence[str] = (),
) -> Iterator[tuple[Item, BaseException | None]]:
    """Calls ``work`` on every item in one of several processes, after the items that it depends on.

    The processes import ``preload`` once and work on one item after the other. When a process dies, another one tries
    its item once more. When the caller stops early, for example by Ctrl-C, or is killed, all of them end, and so do the
    processes that they have started.

    Args:
        work: A function that can be pickled.
        after: The items, each with the items that must have succeeded before it.
        workers: How many items are worked on at once.
        preload: Modules that the processes import before the first item.

    Yields:
        Each item when it has ended, with the exception that ended it or ``None``. An item whose dependency failed
        ends with the same exception and is not tried.

    Raises:
        ValueError: An item depends on itself, or on something that is not an item.
    """
    waiting = dict(after)
    attempts = dict.fromkeys(after, 0)
    ended: set[Item] = set()
    failed: dict[Item, BaseException] = {}
    with _Crew(work, preload) as crew:
        while waiting or crew.busy:
            while doomed := [item for item, others in waiting.items() if not failed.keys().isdisjoint(others)]:
                for item in doomed:
                    failed[item] = next(failed[other] for other in waiting.pop(item) if other in failed)
                    yield item, failed[item]
            ready = [item for item, others in waiting.items() if ended.issuperset(others)]
            if waiting and not ready and not crew.busy:
                raise UserError(f"{next(iter(waiting))!r} depends on itself, or on something that is not an item")
            for item in ready[: workers - len(crew.busy)]:
                del waiting[item]
                attempts[item] += 1
                crew.begin(item)
            for item, error in crew.wait_for_some():
                if isinstance(error, ProcessDiedError) and attempts[item] < ATTEMPTS:
                    waiting = {item: (), **waiting}
                    continue
                if error is None:
                    ended.add(item)
                else:
                    failed[item] = error
                yield item, error


class _Crew(Generic[Item]):
    """Processes, each started when it is needed."""

    def __init__(self, work: Callable[[Item], None], preload: Sequence[str]) -> None:
        self.work = work
        self.context = _context(preload)
        self.busy: list[_Worker[Item]] = []
        self.idle: list[_Worker[Item]] = []

    def begin(self, item: Item) -> None:
        for worker in [worker for worker in self.idle if not worker.process.is_alive()]:
            self.idle.remove(worker)
            worker.kill()
        taken = {worker.slot for worker in (*self.busy, *self.idle)}
        free = next(number for number in count() if number not in taken)
        worker = self.idle.pop() if self.idle else _Worker(self.context, self.work, free)
        self.busy.append(worker)
        worker.begin(item)

    def wait_for_some(self) -> list[tuple[Item, BaseException | None]]:
        """The items that have ended since the last call; waits for one if any is being worked on."""
        signs = {sign: worker for worker in self.busy for sign in (worker.connection, worker.process.sentinel)}
        ended = {worker: worker.error() for worker in {signs[sign] for sign in wait(list(signs))}} if signs else {}
        self.busy = [worker for worker in self.busy if worker not in ended]
        self.idle += [worker for worker, error in ended.items() if not isinstance(error, ProcessDiedError)]
        return [(worker.item, error) for worker, error in ended.items()]

    def __enter__(self) -> _Crew[Item]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        workers = [*self.busy, *self.idle]
        if error is not None:
            for worker in workers:  # all at once, because a second Ctrl-C may interrupt what follows
                worker.kill()
        for worker in workers:
            worker.connection.close()  # ends the process
            worker.process.join()


class _Worker(Generic[Item]):
    """A process that works on one item at a time."""

    item: Item

    def __init__(self, context: Any, work: Callable[[Item], None], slot: int) -> None:
        self.slot = slot
        self.connection, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end, work), name=f"{WORKER}{slot}")
        self.process.start()
        far_end.close()

    def begin(self, item: Item) -> None:
        self.item = item
        with suppress(OSError):  # the process has just died; error() reports it
            self.connection.send(item)

    def error(self) -> BaseException | None:
        """The exception that ended the work on the item, or ``None``."""
        with suppress(EOFError, OSError):
            if self.connection.poll():
                error: BaseException | None = self.connection.recv()
                return error
        self.kill()  # the processes that load its data
        return ProcessDiedError("its process died, killed or out of memory")

    def kill(self) -> None:
        """Kills the process, and those that it has started."""
        self.process.kill()
        _kill_group(self.process.pid)


def slot() -> int:
    """The number of this process among those that work at once, counted from 0; 0 in any other process."""
    number = multiprocessing.current_process().name.removeprefix(WORKER)
    return int(number) if number.isdigit() else 0


def _serve(connection: Connection, work: Callable[[Item], None]) -> None:
    _follow_parent()
    with suppress(EOFError):
        while True:
            item = connection.recv()
            try:
                work(item)
            except BaseException as error:
                connection.send(_portable(error))
            else:
                connection.send(None)


def _portable(error: BaseException) -> BaseException:
    """The error itself if it can be pickled, else its message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _context(preload: Sequence[str]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _follow_parent() -> None:
    """Makes this process ignore Ctrl-C, and end with those that it starts when its parent ends, for whatever reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # processes that load data join the group, and can be killed even if this one is gone
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            _kill_group(os.getpid())
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _kill_group(leader: int | None) -> None:
    if leader is not None and hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # it has ended, or has not begun its group
            os.killpg(leader, signal.SIGKILL)
