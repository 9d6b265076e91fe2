"""What losses need beside their inputs."""

from __future__ import annotations

import pytest
import torch

from distill.losses import cka
from tests.memory import peak_memory
from tests.processes import run_in_processes


def memory_of_cka(rank: int, world_size: int, channels_last: bool) -> tuple[float, float]:
    """MB beyond the maps in the forward pass, and beyond maps and gradients in both."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    student, teacher = (torch.rand(1, 512, 96, 312).to(memory_format=layout).requires_grad_() for _ in range(2))
    cka(student[:, :, :8], teacher[:, :, :8]).sum().backward()  # what the first call loads is not counted
    gradients = 2 * student.numel() * 4 / 1e6
    before = peak_memory()
    value = cka(student, teacher).sum()
    forward = peak_memory() - before
    value.backward()
    return forward, peak_memory() - before - gradients


@pytest.mark.parametrize("channels_last", [False, True])
def test_cka_of_a_512_channel_map_needs_less_than_50_mb_beside_its_inputs(channels_last: bool) -> None:
    ((forward, both),) = run_in_processes(memory_of_cka, 1, channels_last)
    assert forward < 50
    assert both < 50
