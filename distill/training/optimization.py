"""What optimiser and schedule are given: parameters in groups, and checks of what a schedule does to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from distill.errors import UserError

ParameterSettings = tuple[nn.Parameter, dict[str, Any]]
"""A parameter, and what its optimiser does otherwise for it, as ``{"weight_decay": 0.0}``."""


def parameter_groups(parameters: Iterable[nn.Parameter], settings: Iterable[ParameterSettings]) -> list[dict[str, Any]]:
    """The trained ones of the parameters: first those without settings, then a group for each of the settings."""
    settings_of = {id(parameter): own for parameter, own in settings}
    groups: list[tuple[dict[str, Any], list[nn.Parameter]]] = [({}, [])]
    for parameter in parameters:
        if parameter.requires_grad:
            own = settings_of.get(id(parameter), {})
            found = next((members for known, members in groups if known == own), None)
            if found is None:
                groups.append((own, found := []))
            found.append(parameter)
    return [{"params": members, **own} for own, members in groups]


def stepped_as_lightning_wants(scheduler: Any, rates: Sequence[float], trainer: Trainer | None) -> dict[str, Any]:
    """What Lightning wants to know of a schedule: cyclic ones take a step each batch, others each epoch.

    Args:
        scheduler: The schedule.
        rates: The learning rates that single parameters have for themselves.
        trainer: Says how many steps the fit takes.

    Raises:
        ValueError: A cycle is shorter than the fit, which would end it, or would overwrite ``rates``.
    """
    schedule: dict[str, Any] = {"scheduler": scheduler}
    if isinstance(scheduler, ReduceLROnPlateau):
        schedule["monitor"] = scheduler.monitor
    if isinstance(scheduler, (OneCycleLR, CyclicLR)):
        schedule["interval"] = "step"
        if rates:
            raise UserError(
                f"{type(scheduler).__name__} puts its own learning rates in the place of all others, also of the "
                f"{rates[0]} that a part of the parameters has for itself: leave that out, or choose another schedule"
            )
    if isinstance(scheduler, OneCycleLR) and trainer is not None:
        _check_length(scheduler, trainer.estimated_stepping_batches)
    return schedule


def _check_length(scheduler: OneCycleLR, steps: float) -> None:
    """A cycle that is too short would end the fit, one that is too long never lowers the learning rate."""
    total = scheduler.total_steps
    advice = f"OneCycleLR has total_steps={total}, but the fit takes {steps} steps: give --model.lr_scheduler.init_args"
    if steps > total:
        raise UserError(f"{advice}.total_steps {steps}")
    if steps < total:
        rank_zero_warn(f"{advice}.total_steps {steps}, or the learning rate ends in the middle of its cycle")
