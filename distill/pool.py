"""Work that depends on other work, done by processes that stay warm."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)

# an item that was at work twice when its process died is taken to be the cause
ATTEMPTS = 2


def run_with_dependencies(
    work: Callable[[Item], None],
    after: dict[Item, Item | None],
    *,
    workers: int,
    preload: Sequence[str] = (),
) -> Iterator[tuple[Item, Exception | None]]:
    """Calls ``work`` on every item in a pool of processes, on an item only after the one that it depends on.

    The processes import ``preload`` once and serve item after item. When one dies (killed, out of memory) the pool is
    made anew and what was at work is tried once more.

    Args:
        work: A function that can be pickled.
        after: The items, each with the item that must have succeeded before it, or None.
        workers: How many items are worked on at once.
        preload: Modules that the processes import before the first item.

    Yields:
        Each item when it has ended, with the exception that ended it, if one did. An item whose dependency failed
        ends with that exception without being tried.
    """
    waiting = dict(after)
    attempts: dict[Item, int] = {}
    failed: dict[Item, Exception] = {}
    while waiting:
        running: dict[Future[None], Item] = {}
        with ProcessPoolExecutor(workers, _context(preload), _follow_parent) as pool:
            while waiting or running:
                for item in [item for item, other in waiting.items() if other in failed]:
                    failed[item] = failed[waiting.pop(item)]  # type: ignore[index]
                    yield item, failed[item]
                # no more than the workers hold, so that a broken pool tells what was at work
                pending = [*waiting, *running.values()]
                ready = [item for item, other in waiting.items() if other not in pending]
                for item in ready[: workers - len(running)]:
                    attempts[item] = attempts.get(item, 0) + 1
                    running[pool.submit(work, item)] = item
                    del waiting[item]
                if not running:
                    continue
                broken = False
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item, error = running.pop(future), future.exception()
                    if isinstance(error, BrokenProcessPool):
                        broken = True
                        if attempts[item] < ATTEMPTS:
                            waiting = {item: after[item] if after[item] in failed else None} | waiting
                            continue
                        error = RuntimeError("its process died, killed or out of memory")
                    if isinstance(error, Exception):
                        failed[item] = error
                    yield item, failed.get(item)
                if broken:
                    again: dict[Item, Item | None] = dict.fromkeys(running.values())
                    waiting = again | waiting
                    break


def _context(preload: Sequence[str]) -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _follow_parent() -> None:
    """A worker leaves Ctrl-C to its parent and does not outlive it, however that one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
