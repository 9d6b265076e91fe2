"""The signals by which a cluster asks a fit for a checkpoint, or to stop."""

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
    """Notes ``SIGUSR1``, which asks for a checkpoint, and ``SIGTERM``, which asks for one and to stop.

    Nothing else is done in a handler. Lightning's own handler of ``SIGTERM`` talks to the other processes, which may be
    in the middle of talking of something else. However often a signal comes, as launchers pass on what the processes of
    a job get anyway, it asks once.
    """

    def __init__(self) -> None:
        self._save = self._stop = False

    def listen(self, trainer: Trainer) -> None:
        """Listens until the trainer puts back the handlers that it found.

        Where Lightning puts a job of SLURM back into the queue, which its own handlers do, these stay.
        """
        self._save, self._stop = False, trainer.received_sigterm
        if requeues(trainer) or threading.current_thread() is not threading.main_thread():
            return
        found = handlers_before(trainer)
        for name in ("SIGTERM", "SIGUSR1"):
            if number := getattr(signal, name, None):  # Windows lacks the second
                signal.signal(number, partial(self._note, found.get(number)))

    def ask_for_checkpoint(self, trainer: Trainer) -> bool:
        """Whether a process was asked for a checkpoint since :meth:`answered`; all processes must ask."""
        return trainer.strategy.reduce_boolean_decision(self._save or self._stop, all=False)

    def ask_to_stop(self, trainer: Trainer) -> bool:
        """Whether a process was asked to stop; all processes must ask."""
        return trainer.strategy.reduce_boolean_decision(self._stop, all=False)

    def answered(self) -> None:
        """Forgets who asked for a checkpoint."""
        self._save = False

    def _note(self, then: Callable[..., Any] | Any, number: int, frame: FrameType | None) -> None:
        self._save = True
        self._stop = self._stop or number == signal.SIGTERM
        if callable(then):
            then(number, frame)
