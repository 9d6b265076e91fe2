"""The state of the global random number generators, in types that a checkpoint may hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states


def rng_states() -> dict[str, Any]:
    """The states of torch (CPU and GPUs), NumPy and Python; loads with ``weights_only=True``."""
    states = _collect_rng_states()
    name, keys, *rest = states["numpy"]
    return states | {"numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest)}


def set_rng_states(states: dict[str, Any]) -> None:
    """Puts back what :func:`rng_states` returned; GPU states only where there are as many GPUs."""
    name, keys, *rest = states["numpy"]
    states = states | {"numpy": (name, keys.numpy().astype(np.uint32), *rest)}
    if len(states["torch.cuda"]) != torch.cuda.device_count():
        states["torch.cuda"] = []
    _set_rng_states(states)
