"""What is used of torchmetrics beyond its public names, each with the version in which it was read."""

from __future__ import annotations

from torchmetrics import Metric


def set_update_count(metric: Metric, count: int) -> None:
    """Makes a metric one that was updated so many times, as ``Metric.update_count`` then says (1.9.0)."""
    metric._update_count = count
