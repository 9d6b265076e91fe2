"""Settings of the whole test run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.processes import start_fork_server

MOST_PROCESSES = 4
"""Each holds up to 3 GiB."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Shares the tests of the whole suite among several processes; ``-n 0`` keeps to one.

    Not the slow tests, some of which measure time. A process that has no tests left takes some of another, from the
    end of its list: neighbours stay together, so that few fixtures of a module are made twice.
    """
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "not slow" in options.markexpr
    free = getattr(options, "numprocesses", 0) is None and not (options.usepdb or options.collectonly)
    if whole and free and not hasattr(config, "workerinput"):
        options.numprocesses = min(MOST_PROCESSES, os.cpu_count() or 1)
        options.dist = "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # or the processes fight for the cores


def pytest_sessionstart(session: pytest.Session) -> None:
    """Lets the imports for the processes of tests begin, where the tests are shared and many start some."""
    if hasattr(session.config, "workerinput"):
        start_fork_server()


@pytest.hookimpl(trylast=True)  # behind what -k and -m choose
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there is no GPU, leaves out the tests that need one: a skip for each file says how many they are."""
    if torch.cuda.is_available():
        return
    left_out: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("gpu"):
            left_out.setdefault(item.path, []).append(item)
    for first, *others in left_out.values():
        first.add_marker(pytest.mark.skip(reason=f"no GPU on this machine: {len(others) + 1} tests left out"))
    dropped = [item for _, *others in left_out.values() for item in others]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in set(dropped)]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and several processes at once would lose by them."""
    torch.set_num_threads(1)
