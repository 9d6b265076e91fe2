"""Optimiser and schedule: groups the parameters, and checks that the schedule fits them and the fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR
from torch.optim.lr_scheduler import ReduceLROnPlateau as WithoutMonitor

from distill.errors import UserError

ParameterSettings = tuple[nn.Parameter, dict[str, Any]]
"""A parameter and its own settings of the optimiser, such as ``{"weight_decay": 0.0}``."""


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """The trained parameters of a module: first a group without settings, then one group for each of the settings.

    The settings come from ``parameter_settings()`` of the module and its parts.
    """
    parts: list[Any] = [part for part in module.modules() if hasattr(part, "parameter_settings")]
    settings_of = {id(parameter): settings for part in parts for parameter, settings in part.parameter_settings()}
    groups: list[tuple[dict[str, Any], list[nn.Parameter]]] = [({}, [])]
    for parameter in module.parameters():
        if parameter.requires_grad:
            settings = settings_of.get(id(parameter), {})
            group = next((members for known, members in groups if known == settings), None)
            if group is None:
                groups.append((settings, group := []))
            group.append(parameter)
    return [{"params": members, **settings} for settings, members in groups]


def optimizer_and_schedule(
    groups: list[dict[str, Any]],
    optimizer: OptimizerCallable,
    lr_scheduler: LRSchedulerCallable | None,
    trainer: Trainer | None,
) -> Any:
    """The optimiser over groups of parameters, and the schedule if there is one, in Lightning's format."""
    rates = [group["lr"] for group in groups if "lr" in group]
    created = optimizer(groups)
    if lr_scheduler is None:
        return created
    return {"optimizer": created, "lr_scheduler": _schedule(lr_scheduler(created), rates, trainer)}


def _schedule(scheduler: Any, rates: Sequence[float], trainer: Trainer | None) -> dict[str, Any]:
    """Lightning's configuration of a schedule: a cyclic schedule steps each batch, any other each epoch.

    Args:
        scheduler: The schedule.
        rates: The learning rates of parameters with settings of their own.
        trainer: The trainer; it knows the number of steps of the fit.

    Raises:
        ValueError: A cycle is shorter than the fit and would end it, a cyclic schedule would overwrite ``rates``, or a
            schedule has no monitor.
    """
    schedule: dict[str, Any] = {"scheduler": scheduler}
    if isinstance(scheduler, ReduceLROnPlateau):
        schedule["monitor"] = scheduler.monitor
    elif isinstance(scheduler, WithoutMonitor):
        raise UserError(
            "torch.optim.lr_scheduler.ReduceLROnPlateau does not say what it monitors: choose "
            "lightning.pytorch.cli.ReduceLROnPlateau and give its init_args.monitor, such as val/loss"
        )
    if isinstance(scheduler, (OneCycleLR, CyclicLR)):
        schedule["interval"] = "step"
        if rates:
            raise UserError(
                f"{type(scheduler).__name__} replaces all learning rates, but some parameters have the learning rate "
                f"{rates[0]} of their own: remove this setting, or choose another schedule"
            )
    if isinstance(scheduler, OneCycleLR) and trainer is not None:
        _check_length(scheduler, trainer.estimated_stepping_batches)
    return schedule


def _check_length(scheduler: OneCycleLR, steps: float) -> None:
    """Raises an error if the cycle is too short, which would end the fit; warns if it is too long to be completed."""
    total = scheduler.total_steps
    advice = f"OneCycleLR has total_steps={total}, but the fit takes {steps} steps: give --model.lr_scheduler.init_args"
    if steps > total:
        raise UserError(f"{advice}.total_steps {steps}")
    if steps < total:
        rank_zero_warn(f"{advice}.total_steps {steps}, or the learning rate ends in the middle of its cycle")
