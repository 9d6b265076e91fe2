"""What losses need beside their inputs."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from distill.losses import cka, dpm_loss
from distill.losses.dpm import Direction
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


def memory_of_dpm_loss(rank: int, world_size: int, direction: Direction) -> float:
    """Bytes beyond the logits and their gradient, over those of the logits."""
    logits = torch.rand(1, 257, 176, 704).requires_grad_()
    depth = 80 * torch.rand(1, 1, 176, 704)
    dpm_loss(logits[:, :, :2], depth[:, :, :2], direction=direction)  # what the first call loads is not counted
    megabytes = logits.numel() * 4 / 1e6
    before = peak_memory()
    dpm_loss(logits, depth, direction=direction).backward()
    return (peak_memory() - before) / megabytes - 1


@pytest.mark.parametrize("direction", get_args(Direction))
def test_dpm_loss_needs_less_than_half_of_its_logits_beside_them_and_their_gradient(direction: Direction) -> None:
    (share,) = run_in_processes(memory_of_dpm_loss, 1, direction)
    assert share < 0.5
