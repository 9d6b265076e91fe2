"""The random state in a checkpoint."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distill.resume.random_state import RandomState, rng_states, set_rng_states


def numbers() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


def test_states_restored_give_the_same_numbers_of_all_generators() -> None:
    states = rng_states()
    first = numbers()
    set_rng_states(states)
    assert numbers() == first


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_resumed_fit_continues_with_the_numbers_of_its_checkpoint(wrapped: bool) -> None:
    checkpoint: dict[str, Any] = {}
    trainer: Any = SimpleNamespace(ckpt_path="last.ckpt")
    module: Any = None
    RandomState().on_save_checkpoint(trainer, module, checkpoint)
    if not wrapped:  # older checkpoints hold the state of one process
        checkpoint["rng_states"] = checkpoint["rng_states"][0]
    first = numbers()
    resumed = RandomState()
    resumed.on_load_checkpoint(trainer, module, checkpoint)
    assert numbers() != first
    resumed.on_fit_start(trainer, module)
    assert numbers() == first
    resumed.on_fit_start(trainer, module)  # a second fit does not go back
    assert numbers() != first


def test_a_fit_without_a_checkpoint_keeps_its_numbers() -> None:
    states = rng_states()
    first = numbers()
    set_rng_states(states)
    trainer: Any = SimpleNamespace(ckpt_path=None)
    callback = RandomState()
    callback.on_load_checkpoint(trainer, None, {"rng_states": [rng_states()]})  # type: ignore[arg-type]
    torch.rand(3)
    set_rng_states(states)
    callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
    assert numbers() == first
