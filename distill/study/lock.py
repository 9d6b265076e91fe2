"""Keeps two studies, or two trainings, from working in one folder at the same time."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distill.atomic import atomic_write
from distill.errors import UserError, UserOSError

LOCK = ".lock"
HOLDER = ".holder.json"
"""Says who holds the lock, or held it last; a file of its own, because a lock's file is not for reading."""


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a study's folder while the block runs.

    The operating system holds the lock and frees it when the process ends, however it ends. On a network file system it
    does so between hosts, if the file system supports ``flock``.

    Args:
        folder: The study's; it is created.

    Raises:
        UserError: Another process holds the lock; names it.
        UserOSError: The folder cannot be created or written.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"a study already runs in {folder} ({_holder(folder)}): wait for it, stop it, or give another --name"
        ) from None
    except OSError as error:
        raise UserOSError(f"the study cannot write to {folder} ({error.strerror}): choose another logs_dir") from None
    try:
        _sign(folder, _read(folder).get("jobs"))
        yield
    finally:
        lock.release()


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a run's folder while the block runs; waits while another process trains there.

    Such a process may be a job of a cluster whose study was stopped.

    Args:
        folder: The run's; it is created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK).acquire(poll_interval=1):
        yield


def announce_jobs(folder: Path) -> str:
    """Makes the jobs that earlier studies have submitted in this folder end before they train anything more.

    Args:
        folder: That of a study that holds its lock and is about to train.

    Returns:
        A name of the jobs of this study for :func:`check_latest`.
    """
    name = secrets.token_hex(8)
    _sign(folder, name)
    return name


def check_latest(folder: Path, jobs: str) -> None:
    """Refuses to work for a study after which another one has begun to train in the same folder.

    Args:
        folder: The study's.
        jobs: What :func:`announce_jobs` returned to the study that asked for the work.

    Raises:
        UserError: Another study has begun since.
    """
    if _read(folder).get("jobs") != jobs:
        raise UserError(f"another study has begun in {folder} since this job was submitted ({_holder(folder)})")


def _sign(folder: Path, jobs: str | None) -> None:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "jobs": jobs}
    with atomic_write(folder / HOLDER) as draft:
        draft.write_text(json.dumps(holder))


def _read(folder: Path) -> dict[str, Any]:
    try:
        holder: dict[str, Any] = json.loads((folder / HOLDER).read_text())
    except (OSError, ValueError):  # the other study has the lock, but has not signed yet
        return {}
    return holder


def _holder(folder: Path) -> str:
    holder = _read(folder)
    return "process {pid} on {host} since {since}".format(**holder) if holder else "its process is not known"
