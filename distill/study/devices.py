"""The one device on which a run of a study trains."""

from __future__ import annotations

from typing import Any

import torch

from distill.errors import UserError

GPU = ("auto", "gpu", "cuda")


def check_one_device(trainer: Any) -> None:
    """Refuses a trainer with several devices: Lightning would start the whole study again for each of them.

    Args:
        trainer: The part of a parsed configuration.

    Raises:
        UserError: It asks for several devices, or for several nodes.
    """
    for name, count in (("devices", _count(trainer.devices)), ("num_nodes", trainer.num_nodes)):
        if count != 1:
            raise UserError(
                f"trainer.{name} is {trainer[name]!r}, but each run of a study trains on one device: leave it out and "
                "set workers to the number of runs at once, or train one run with fit (see --print_config)"
            )


def device_of(slot: int, trainer: Any) -> list[int] | int:
    """The device of a run that did not ask for one: the GPUs of a machine in turn.

    Args:
        slot: The number of the process among those that train at once.
        trainer: The part of a parsed configuration.
    """
    count = torch.cuda.device_count() if trainer.accelerator in GPU else 0
    return [slot % count] if count > 1 else 1


def _count(devices: Any) -> int | None:
    """The number of devices that ``trainer.devices`` asks for; ``None`` for all that there are."""
    if devices == "auto":  # the default; a study then uses one device
        return 1
    if isinstance(devices, str) and "," in devices:
        devices = list(filter(str.strip, devices.split(",")))
    if isinstance(devices, (list, tuple)):
        return len(devices)
    return int(devices) if int(devices) >= 0 else None
