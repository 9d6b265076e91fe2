"""The signals by which a cluster requests a checkpoint from a fit, or its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer

from distill.internals.lightning import handlers_before, requeues


class Signals:
    """Records ``SIGUSR1``, which requests a checkpoint, and ``SIGTERM``, which requests a checkpoint and the end.

    A handler does nothing else. Lightning's handler of ``SIGTERM`` communicates with the other processes, which may
    be in the middle of another collective. A process may receive the same signal several times, because launchers
    forward the signals that the processes of a job receive directly. They count as one request.
    """

    def __init__(self) -> None:
        self._save = self._stop = False

    def install(self, trainer: Trainer) -> None:
        """Handles signals until the trainer restores the previous handlers.

        Lightning's handlers stay if they put a SLURM job back into the queue.
        """
        self._save, self._stop = False, trainer.received_sigterm
        if requeues(trainer) or threading.current_thread() is not threading.main_thread():
            return
        previous = handlers_before(trainer)
        for name in ("SIGTERM", "SIGUSR1"):
            if number := getattr(signal, name, None):  # Windows has no SIGUSR1
                signal.signal(number, partial(self._handle, previous.get(number)))

    def checkpoint_requested(self, trainer: Trainer) -> bool:
        """Whether any process got a request since :meth:`clear_request`; all processes must call this."""
        return trainer.strategy.reduce_boolean_decision(self._save or self._stop, all=False)

    def stop_requested(self, trainer: Trainer) -> bool:
        """Whether any process got a request to stop; all processes must call this."""
        return trainer.strategy.reduce_boolean_decision(self._stop, all=False)

    def clear_request(self) -> None:
        """Forgets the requests for a checkpoint."""
        self._save = False

    def _handle(self, previous: Callable[..., Any] | Any, number: int, frame: FrameType | None) -> None:
        self._save = True
        self._stop = self._stop or number == signal.SIGTERM
        if callable(previous):
            previous(number, frame)
