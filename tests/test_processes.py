from __future__ import annotations

import multiprocessing
import os
import signal
import sys

from tests.processes import PRELOADED, run_in_processes, start_process


def modules_there(rank: int, world_size: int) -> list[str]:
    return [name for name in PRELOADED if name in sys.modules]


def test_the_fork_server_has_imported_what_processes_need() -> None:
    assert run_in_processes(modules_there, 1) == [PRELOADED]


def test_a_server_that_was_started_keeps_its_imports_whatever_a_study_asks_for() -> None:
    multiprocessing.set_forkserver_preload(["json"])
    assert run_in_processes(modules_there, 1) == [PRELOADED]


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_end_of_a_process_is_known() -> None:
    process = start_process(kill_oneself)
    process.join()
    assert process.exitcode == -signal.SIGKILL
