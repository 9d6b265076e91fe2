"""What losses on features need beside their inputs: no table of all channels, positions, samples or triplets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill.losses import cka, dcm_loss, fsp_loss, fsp_matrix, nst_loss, rkd_angle_loss
from tests.memory import peak_bytes


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation returned."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def fsp(student: Tensor, teacher: Tensor) -> Tensor:
    halves = student.chunk(2, 1), teacher.chunk(2, 1)
    return fsp_loss(fsp_matrix(*halves[0]), fsp_matrix(*halves[1]))


def cka_sum(student: Tensor, teacher: Tensor) -> Tensor:
    return cka(student, teacher).sum()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nst": nst_loss,
    "fsp": fsp,
    "rkd_angle": rkd_angle_loss,
    "cka": cka_sum,
    "dcm": partial(dcm_loss, sigma=1.0),
}
CASES: list[tuple[str, tuple[int, ...]]] = [
    ("nst", (2, 32, 4, 4)),
    ("nst", (2, 8, 16, 16)),
    ("nst", (2, 16, 4, 4)),
    ("fsp", (2, 32, 16, 16)),
    ("rkd_angle", (64, 64)),
    ("rkd_angle", (32, 512)),
    ("cka", (2, 32, 16, 16)),
    ("dcm", (512, 16)),
    ("dcm", (16, 8, 8, 8)),
]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_no_tensor_is_larger_than_both_inputs(name: str, shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(shape).requires_grad_(), torch.randn(shape)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        LOSSES[name](student, teacher).backward()
    assert largest.bytes <= 2 * student.numel() * 4


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("nst", (8, 128, 56, 56)),  # all products of channels and positions: 1.6 GB
        ("fsp", (8, 128, 56, 56)),  # 0.4 GB
        ("rkd_angle", (128, 32768)),  # all differences: 2.1 GB
        ("cka", (8, 128, 56, 56)),  # all products of channels and positions: 1.6 GB
        ("dcm", (128, 128, 16, 16)),  # all differences: 2.1 GB
    ],
)
def test_all_of_it_together_is_less_than_4_times_the_inputs(name: str, shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(shape).requires_grad_(), torch.randn(shape)
    inputs = 2 * student.numel() * 4
    with_gradient = peak_bytes(lambda: torch.autograd.grad(LOSSES[name](student, teacher), student))
    assert with_gradient - inputs / 2 < 4 * inputs
