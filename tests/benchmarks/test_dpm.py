"""What the loss on depth probability maps costs at the paper's crop, beside the plain formula."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from distill.losses import dpm_loss
from tests.losses.plain_dpm import plain_divergence
from tests.memory import peak_memory
from tests.processes import run_in_processes

SHAPE = (4, 257, 352, 704)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dpm_loss": dpm_loss,
    "plain formula": lambda logits, depth: plain_divergence(logits, depth).mean(),
}


def cost(rank: int, world_size: int, name: str) -> tuple[float, float, float, float]:
    """Memory beyond the logits and their gradient over the logits', CPU seconds forward and backward, and the loss.

    Time is that of one thread, which other work on the machine does not change.
    """
    loss = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SHAPE, generator=generator).requires_grad_()
    depth = 80 * torch.rand(SHAPE[0], 1, *SHAPE[2:], generator=generator)
    few = logits[:1, :, :2].detach().requires_grad_()
    loss(few, depth[:1, :, :2]).backward()  # what the first call loads is not counted
    before = peak_memory()
    started = time.process_time()
    value = loss(logits, depth)
    middle = time.process_time()
    value.backward()
    ended = time.process_time()
    share = (peak_memory() - before) * 1e6 / (logits.numel() * 4) - 1
    return share, middle - started, ended - middle, value.item()


@pytest.mark.benchmark
@pytest.mark.timeout(1200)
def test_dpm_loss_needs_less_memory_and_time_than_the_plain_formula(capsys: pytest.CaptureFixture[str]) -> None:
    costs = {name: run_in_processes(cost, 1, name)[0] for name in LOSSES}
    table = Table(
        "", "memory beside logits and gradient", "forward", "backward", title=f"logits {SHAPE}, float32, one thread"
    )
    for name, (share, forward, backward, _) in costs.items():
        gigabytes = share * torch.Size(SHAPE).numel() * 4 / 1e9
        table.add_row(name, f"{share:.2f} x logits ({gigabytes:.2f} GB)", f"{forward:.2f} s", f"{backward:.2f} s")
    with capsys.disabled():
        Console(width=100).print("", table)
    own, plain = costs.values()
    assert own[0] <= 1.6
    assert plain[0] > 3.5
    assert sum(own[1:3]) < sum(plain[1:3])
    assert own[3] == pytest.approx(plain[3], rel=1e-5)
