"""What images with their channels innermost save a student on a CPU: ``-m slow``."""

from __future__ import annotations

import copy
import time
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from distill.models import ResNet8x4

ROUNDS = 10


def seconds(network: nn.Module, images: Tensor) -> float:
    """CPU seconds, of one thread, forward and backward."""
    started = time.process_time()
    network(images).logsumexp(1).sum().backward()
    return time.process_time() - started


@pytest.mark.slow
def test_images_with_their_channels_innermost_are_faster_whatever_the_weights_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    network = ResNet8x4(100)
    images = torch.randn(32, 3, 32, 32)
    last = images.contiguous(memory_format=torch.channels_last)
    both = copy.deepcopy(network).to(memory_format=torch.channels_last)
    cases = {"channels first": (network, images), "images last": (network, last), "weights as well": (both, last)}
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (model, batch) in cases.items():
            spent[name].append(seconds(model, batch))
    ratios = {
        name: median(mine / first for mine, first in zip(values, spent["channels first"], strict=True))
        for name, values in spent.items()
    }
    with capsys.disabled():
        print("\n", {name: round(ratio, 3) for name, ratio in ratios.items()})  # noqa: T201
    assert ratios["images last"] < 1
