"""Runs a function in several processes that form a process group."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

PRELOADED = ["distill.cli", "distill.methods", "callbacks", "datamodules", "tests.toys"]
"""Imported once, by the server that forks the processes: importing them takes a process six seconds."""


def start_fork_server() -> None:
    """Starts the one server that forks all processes, those of studies as well, before a test asks it to import less.

    It is at work on the imports when this returns.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    ensure_running()


def run_in_processes(function: Callable[..., Any], count: int, *args: Any) -> list[Any]:
    """Calls ``function(rank, world_size, *args)`` in ``count`` fresh processes of one gloo group.

    Args:
        function: Defined at the top level of a module, so that the processes can import it.
        count: The number of processes.
        args: Passed on; they must be picklable.

    Returns:
        What the processes returned, in the order of their ranks: anything that ``torch.load`` reads with
        ``weights_only=True``, such as tensors and containers of them.

    Raises:
        torch.multiprocessing.ProcessRaisedException: A process failed; the message holds its traceback.
    """
    start_fork_server()
    with tempfile.TemporaryDirectory() as folder:
        start: Callable[..., Any] = start_processes  # torch leaves it untyped
        start(_join_group_and_call, args=(count, folder, function, args), nprocs=count, start_method="forkserver")
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(count)]


def start_process(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """Calls ``function(*args)`` in a fresh process, which the caller joins or kills.

    Args:
        function: Defined at the top level of a module, so that the process can import it.
        args: Passed on; they must be picklable.
    """
    start_fork_server()
    process = multiprocessing.get_context("forkserver").Process(target=_call_on_one_thread, args=(function, *args))
    process.start()
    return process


@contextmanager
def as_torchrun_does(rank: int, count: int) -> Iterator[None]:
    """Tells Lightning which of the processes of a group this is."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in {**environment, "TORCHELASTIC_RUN_ID": "tests"}.items():
            monkeypatch.setenv(name, str(value))
        yield


def _call_on_one_thread(function: Callable[..., Any], *args: Any) -> None:
    torch.set_num_threads(1)
    function(*args)


def _join_group_and_call(
    rank: int, count: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=Path(folder, "rendezvous").as_uri(),
        rank=rank,
        world_size=count,
        timeout=timedelta(minutes=10),  # a busy machine lets one of them wait
    )
    try:
        torch.save(function(rank, count, *args), Path(folder, f"{rank}.pt"))
        # torch 2.6 hangs now and then when one process leaves the group while another is at work in it
        dist.barrier()
    finally:
        dist.destroy_process_group()
