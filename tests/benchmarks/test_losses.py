"""What every loss costs, forward and backward, beside its textbook formula and torchdistill's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmarks.cost import peak_bytes, time_ratios
from tests.benchmarks.pages import LossCost
from tests.benchmarks.workloads import make, names


@pytest.mark.benchmark
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("loss", "workload"), list(names()))
def test_cost_beside_the_plain_formula(
    loss: str, workload: str, benchmark: Any, keep: Callable[[LossCost], None]
) -> None:
    case = make(loss, workload)

    def forward_and_backward(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(case.student), case.student)

    torch.testing.assert_close(
        case.own(case.student), case.rivals["textbook"](case.student), rtol=case.agreement, atol=1e-5
    )
    own = forward_and_backward(case.own)
    rivals = {name: forward_and_backward(rival) for name, rival in case.rivals.items()}
    seconds, ratios = time_ratios(benchmark, own, rivals)
    memory = peak_bytes(own)
    memories = {name: memory / peak_bytes(rival) for name, rival in rivals.items()}
    keep(LossCost(loss, workload, 1e3 * seconds, ratios, memory / 1e6, memories))
