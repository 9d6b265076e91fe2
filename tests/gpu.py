"""How long a call takes on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def milliseconds(call: Callable[[], Any]) -> float:
    """The mean of ten calls, after five that warm up."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for number in range(15):
        if number == 5:
            start.record()
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 10
