"""Time and memory of a loss or a step, beside those of its rivals in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from tests import memory

GPU = torch.cuda.is_available()
PAIRS = 10
"""The fewest rounds of which a median is taken."""


def now() -> float:
    """Seconds; on a CPU those in which this process, of one thread, was at work: others' work does not count."""
    if not GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def time_ratios(
    benchmark: Any, own: Callable[[], Any], rivals: dict[str, Callable[[], Any]], seconds: float = 0.5
) -> tuple[float, dict[str, float]]:
    """Our median time in seconds, and the medians of its ratios to each rival's, who run before us in each round."""
    spent: dict[str, list[float]] = {name: [] for name in rivals}
    for call in (own, *rivals.values()):
        call()
    started = now()
    own()
    rounds = max(PAIRS, min(100, int(seconds / (now() - started))))

    def run_rivals() -> None:
        for name, call in rivals.items():
            started = now()
            call()
            spent[name].append(now() - started)

    benchmark._timer = now
    benchmark.pedantic(own, setup=run_rivals, rounds=rounds)
    durations = benchmark.stats.stats.data
    ratios = {
        name: median(own / other for own, other in zip(durations, others, strict=True))
        for name, others in spent.items()
    }
    return median(durations), ratios


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that was allocated at a time beyond what was there before, its result included."""
    if GPU:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = call()
        del result
        return torch.cuda.max_memory_allocated() - before
    return memory.peak_bytes(call)
