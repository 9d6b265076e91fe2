"""A student in shards beside a whole teacher."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.processes import run_in_processes
from tests.test_guarantees import loss_and_gradients, module_for_comparison, whole_batch

METHODS = ["KD", "RKD", "hint and relations"]


def shards_of_methods(rank: int, size: int) -> dict[str, dict[str, Tensor]]:
    """The first process has 5 samples, of which one is ignored, the second has 2; each has half of the weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (size,))
    rows = slice(0, 5) if rank == 0 else slice(5, 7)
    found = {}
    for method in METHODS:
        module = module_for_comparison(method)
        network = module.network
        assert network is not None
        own = [part for part in module.children() if part is not network and any(True for _ in part.parameters())]
        for part in (network.get_submodule("first"), network, *own):
            fully_shard(part, mesh=mesh)
        batch = {name: values[rows] for name, values in whole_batch(method).items()}
        gradients = loss_and_gradients(module, batch, parallel=False)
        for name, gradient in gradients.items():
            if isinstance(gradient, DTensor):
                gradients[name] = gradient.full_tensor()
        assert module.teacher is not None
        assert not any(isinstance(parameter, DTensor) for parameter in module.teacher.parameters())
        assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
        found[method] = gradients
    return found


@pytest.mark.ddp
@pytest.mark.skipif(torch.__version__ < "2.8", reason="tried with newer torch only")
def test_a_student_in_shards_has_the_gradients_of_one_process_with_the_whole_batch() -> None:
    first, second = run_in_processes(shards_of_methods, 2)
    for method in METHODS:
        expected = loss_and_gradients(module_for_comparison(method), whole_batch(method), parallel=False)
        torch.testing.assert_close((first[method]["loss"] + second[method]["loss"]) / 2, expected["loss"])
        for name in expected.keys() - {"loss"}:
            torch.testing.assert_close(first[method][name], expected[name], rtol=1e-9, atol=1e-11, msg=method + name)
