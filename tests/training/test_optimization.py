"""Parameters in groups, and what Lightning learns of a schedule."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, StepLR

from distill.training.optimization import optimizer_and_schedule, parameter_groups

SGD: Any = partial(torch.optim.SGD, lr=0.1)


class WithSettings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def parameter_settings(self) -> list[tuple[nn.Parameter, dict[str, Any]]]:
        return [(self.scale, {"lr": 0.01}), (self.shift, {"lr": 0.01})]


def test_parts_give_settings_and_frozen_parameters_are_left_out() -> None:
    whole = nn.ModuleList([nn.Linear(2, 2), WithSettings(), nn.Linear(2, 2).requires_grad_(False)])
    plain, own = parameter_groups(whole)
    assert [id(parameter) for parameter in plain["params"]] == [id(parameter) for parameter in whole[0].parameters()]
    assert [id(parameter) for parameter in own["params"]] == [id(parameter) for parameter in whole[1].parameters()]
    assert own["lr"] == 0.01


def test_without_a_schedule_only_the_optimiser_is_returned() -> None:
    groups = parameter_groups(nn.Linear(2, 2))
    assert isinstance(optimizer_and_schedule(groups, SGD, None, None), torch.optim.SGD)


@pytest.mark.parametrize(
    ("schedule", "keys"),
    [
        (partial(StepLR, step_size=1), set()),
        (partial(CyclicLR, base_lr=0.1, max_lr=1), {"interval"}),
    ],
)
def test_cyclic_schedules_take_a_step_each_batch(schedule: Any, keys: set[str]) -> None:
    chosen = optimizer_and_schedule(parameter_groups(nn.Linear(2, 2)), SGD, schedule, None)
    assert chosen["lr_scheduler"].keys() == {"scheduler"} | keys


def test_a_plateau_schedule_monitors_the_metric_that_it_names() -> None:
    schedule = partial(ReduceLROnPlateau, monitor="val/hard")
    chosen = optimizer_and_schedule(parameter_groups(nn.Linear(2, 2)), SGD, schedule, None)
    assert chosen["lr_scheduler"]["monitor"] == "val/hard"
