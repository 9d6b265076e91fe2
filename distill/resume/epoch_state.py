"""The state of an unfinished epoch that no ``state_dict`` holds: logged values and the module's metrics."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from distill.internals.lightning import epoch_results
from distill.internals.torchmetrics import set_update_count

EpochState = dict[str, Any]
MetricState = tuple[int, dict[str, Tensor | list[Tensor]]]


def epoch_state(trainer: Trainer, module: LightningModule, before: EpochState | None = None) -> EpochState:
    """The values that ``log`` averages over the epoch, those that callbacks see, and the metrics' states; on the CPU.

    Args:
        trainer: The trainer.
        module: The module in training.
        before: The state that the epoch was resumed with; values that were not logged since then are kept.
    """
    earlier = before["logged"] if before else {}
    logged = {
        key: {name: value.cpu() for name, value in result.metric_state.items()}
        for key, result in epoch_results(trainer).items()
        if not result.has_reset
    }
    metrics = {
        name: metric_state(part)
        for name, part in module.named_modules()
        if isinstance(part, Metric) and part.update_called
    }
    seen = {name: value.cpu() for name, value in trainer.callback_metrics.items()}
    return {"logged": earlier | logged, "metrics": metrics, "seen": seen}


def restore_metrics(state: EpochState, trainer: Trainer, module: LightningModule) -> None:
    """Restores the states of the module's metrics and the values that callbacks see."""
    seen = {name: value.to(module.device) for name, value in state["seen"].items()}
    trainer.callback_metrics.update(seen)
    for name, seen in state["metrics"].items():
        set_metric_state(cast(Metric, module.get_submodule(name)), seen)


def add_logged(state: EpochState, trainer: Trainer) -> None:
    """Adds the logged values of a state to those logged since, each once.

    This waits until a value is logged again, because Lightning creates its record of a value only then.
    """
    results = epoch_results(trainer)
    for key in state["logged"].keys() & results.keys():
        result = results[key]
        extreme = result.meta.reduce_fx if result.meta.is_max_reduction or result.meta.is_min_reduction else None
        for name, value in state["logged"].pop(key).items():
            before, since = value.to(result.device), getattr(result, name)
            setattr(result, name, extreme(before, since) if extreme else before + since)


def metric_state(metric: Metric) -> MetricState:
    """The number of updates of a metric and its accumulated values, on the CPU."""
    return metric.update_count, {name: _moved(value, "cpu") for name, value in metric.metric_state.items()}


def set_metric_state(metric: Metric, state: MetricState) -> None:
    """Restores the state that :func:`metric_state` returned."""
    count, values = state
    set_update_count(metric, count)
    for name, value in values.items():
        setattr(metric, name, _moved(value, metric.device))


def _moved(value: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    return [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
