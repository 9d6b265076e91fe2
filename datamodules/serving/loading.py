"""Data loaders that take the same random numbers with workers as without, and go on in the middle of an epoch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from distill.internals.torch import OrderedLoader, has_workers


class Loader(OrderedLoader[dict[str, Tensor]]):
    """Takes one random number for its workers in every epoch, also where there are none or they are there already.

    Its workers leave ``SIGTERM`` and ``SIGUSR1``, which a cluster sends to all processes of a job, to the process that
    trains, and end when that asks them to. What they start inherits that.
    """

    def __iter__(self) -> Any:
        if has_workers(self):  # workers that stay, and have taken theirs
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        given = self.worker_init_fn
        self.worker_init_fn = partial(_start_worker, given)
        try:
            return super().__iter__()
        finally:
            self.worker_init_fn = given


class ResumableLoader(Loader):
    """Goes on in the middle of an epoch: its state is kept in Lightning's checkpoints.

    That is how many batches it has delivered of the epoch, and torch's random state from which their order was drawn.
    A loader that is given it draws that order again and begins behind the delivered batches, without loading them and
    without a trace in the present random state. Not for data sets that draw random numbers in workers, which start
    anew with theirs.
    """

    _delivered = 0
    _skipped = 0
    _drawn_from: Tensor | None = None
    _given: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """How far the epoch is, in types that a checkpoint may hold."""
        return {"delivered": self._delivered, "drawn_from": self._drawn_from}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there in the next iteration; where the epoch was at its end, a new one starts."""
        self._given = state

    def __iter__(self) -> Any:
        given, self._given = self._given, None
        self._delivered = self._skipped = 0
        if given is None or not 0 < given["delivered"] < len(self):
            return self._counting(super().__iter__())
        self._delivered = self._skipped = given["delivered"]
        self._drawn_from = given["drawn_from"]
        present = torch.get_rng_state()
        batches = super().__iter__()
        torch.set_rng_state(present)
        return self._counting(batches)

    def _counting(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        for batch in batches:
            self._delivered += 1
            yield batch

    def ordered(self, sampler: Any) -> Any:
        """The sampler, or the sampler of batches, from where the epoch goes on."""
        return _Order(sampler, self)

    def _remaining(self, order: Iterable[Any]) -> Iterator[Any]:
        """What a sampler, or a sampler of batches, has left; samplers draw when they are asked for the first."""
        present = torch.get_rng_state()
        if self._skipped:
            torch.set_rng_state(cast(Tensor, self._drawn_from))
        else:
            self._drawn_from = present
        rest = islice(order, self._skipped, None)
        first = list(islice(rest, 1))
        if self._skipped:
            torch.set_rng_state(present)
        yield from first
        yield from rest


class _Order:
    def __init__(self, sampler: Any, loader: ResumableLoader) -> None:
        self.sampler = sampler
        self.loader = loader

    def __len__(self) -> int:
        return len(cast(Sized, self.sampler))

    def __iter__(self) -> Iterator[Any]:
        return self.loader._remaining(self.sampler)


def _start_worker(then: Callable[[int], None] | None, worker: int) -> None:
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, daemon=True).start()
    if then is not None:
        then(worker)


def _end_by_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
