"""How much memory a process or a call needs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_memory() -> float:
    """The most memory that this process ever held, in MB; what a test measures belongs into a fresh process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that torch held on the CPU at a time beyond what was there before, the call's result included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    del result
    held, most = 0, 0
    events = recorded.profiler.kineto_results.events()
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
