"""What is used of torchmetrics beyond its public names is there and does what is relied on."""

from __future__ import annotations

import torch
from torchmetrics import MeanMetric

from distill.internals.torchmetrics import set_update_count


def test_the_update_count_of_a_metric_is_what_it_is_set_to_until_it_is_reset() -> None:
    metric = MeanMetric()
    set_update_count(metric, 3)
    assert metric.update_count == 3
    assert metric.update_called  # without which torchmetrics warns of a metric that was never updated
    metric.update(torch.tensor(1.0))
    assert metric.update_count == 4
    metric.reset()
    assert metric.update_count == 0
    assert set(metric.metric_state) == {"mean_value", "weight"}  # public: the names of what is gathered
