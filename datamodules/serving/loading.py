"""Data loaders that take the same random numbers with and without workers, and can resume within an epoch."""

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
    """A data loader that takes one random number in every epoch, whether or not it starts workers.

    A cluster sends ``SIGTERM`` and ``SIGUSR1`` to all processes of a job. The workers ignore them, so that the training
    process can react; they end when the training process tells them to. Processes that they start do the same.
    """

    def __iter__(self) -> Any:
        if has_workers(self):  # persistent workers exist already, and take no number
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        given = self.worker_init_fn
        self.worker_init_fn = partial(_start_worker, given)
        try:
            return super().__iter__()
        finally:
            self.worker_init_fn = given


class ResumableLoader(Loader):
    """A data loader that resumes within an epoch: Lightning's checkpoints keep its state.

    The state is the number of batches that it has delivered in the epoch, and torch's random state before it drew their
    order. A loader that loads this state draws the same order again and starts after the delivered batches. It does not
    load these batches, and does not change the current random state. Not for data sets that draw random numbers in
    workers: the random states of workers are not kept.
    """

    _delivered = 0
    _skipped = 0
    _drawn_from: Tensor | None = None
    _given: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The number of delivered batches and the random state, in types that a checkpoint may hold."""
        return {"delivered": self._delivered, "drawn_from": self._drawn_from}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes there in the next iteration; if the epoch was at its end, a new epoch starts."""
        self._given = state

    def __iter__(self) -> Any:
        given, self._given = self._given, None
        self._delivered = self._skipped = 0
        if given is None or not 0 < given["delivered"] < len(self):
            return self._counting(super().__iter__())
        self._delivered = self._skipped = given["delivered"]
        self._drawn_from = given["drawn_from"]
        current = torch.get_rng_state()
        batches = super().__iter__()
        torch.set_rng_state(current)
        return self._counting(batches)

    def _counting(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        for batch in batches:
            self._delivered += 1
            yield batch

    def ordered(self, sampler: Any) -> Any:
        """The rest of the sampler, or of the sampler of batches."""
        return _RemainingSampler(sampler, self)

    def _remaining(self, order: Iterable[Any]) -> Iterator[Any]:
        """The rest of a sampler, or of a sampler of batches; a sampler draws its order when the first is needed."""
        current = torch.get_rng_state()
        if self._skipped:
            torch.set_rng_state(cast(Tensor, self._drawn_from))
        else:
            self._drawn_from = current
        rest = islice(order, self._skipped, None)
        first = list(islice(rest, 1))
        if self._skipped:
            torch.set_rng_state(current)
        yield from first
        yield from rest


class _RemainingSampler:
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
