"""How much memory a process has needed so far."""

from __future__ import annotations

import resource
import sys


def peak_memory() -> float:
    """The most memory that this process ever held, in MB; what a test measures belongs into a fresh process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
