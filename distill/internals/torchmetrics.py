"""torchmetrics: functions that use its private names, each with the version that was read."""

from __future__ import annotations

from torchmetrics import Metric


def set_update_count(metric: Metric, count: int) -> None:
    """Sets how many times a metric was updated; ``Metric.update_count`` is read-only (1.9.0)."""
    metric._update_count = count
