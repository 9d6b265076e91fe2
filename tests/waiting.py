"""Waiting for what other processes do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Returns as soon as the condition holds, which may take long on a busy machine.

    Raises:
        TimeoutError: It does not hold in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} seconds in vain")
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path("/proc", str(pid), "stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:  # a system without /proc, or gone just now
        return not Path("/proc/self").exists()


def processes_of_session(session: int) -> int:
    """The number of processes of a session, zombies aside; without ``/proc``, whether its first process group runs."""
    if not Path("/proc/self").exists():
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return 0
        return 1
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone just now
            state, _, _, of_session = stat.read_text().rpartition(")")[2].split()[:4]
            count += int(of_session) == session and state != "Z"
    return count
