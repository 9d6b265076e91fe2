"""Settings of the whole test run."""

from __future__ import annotations

import os

import pytest
import torch

MOST_PROCESSES = 4
"""Each holds up to 3 GiB, and the longest file ends no sooner with more."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Shares the files of the whole suite among several processes; ``-n 0`` keeps to one.

    Not the slow tests, some of which measure time.
    """
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "not slow" in options.markexpr
    free = getattr(options, "numprocesses", 0) is None and not (options.usepdb or options.collectonly)
    if whole and free and not hasattr(config, "workerinput"):
        options.numprocesses = min(MOST_PROCESSES, os.cpu_count() or 1)
        options.dist = "loadfile"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and several processes at once would lose by them."""
    torch.set_num_threads(1)
