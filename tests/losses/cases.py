"""Random logits for properties, and the papers' equations on them, position by position in plain float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

IGNORED = 255

Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(student, teacher, target)`` to one value a position, ``(N, *)``."""

few_examples = settings(max_examples=25, derandomize=True, deadline=None, database=None)


class Case(NamedTuple):
    student: Tensor  # (N, C, *), float64
    teacher: Tensor  # (N, C, *)
    target: Tensor  # (N, *), some of them IGNORED


def random_case(
    seed: int = 0, samples: int = 3, classes: int = 4, spatial: tuple[int, ...] = (), scale: float = 2.0
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, samples, classes, *spatial, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (samples, *spatial), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORED
    return Case(student, teacher, target)


def cases(min_classes: int = 2) -> st.SearchStrategy[Case]:
    return st.builds(
        random_case,
        seed=st.integers(0, 10**6),
        samples=st.integers(1, 4),
        classes=st.integers(min_classes, 6),
        spatial=st.sampled_from([(), (3,), (2, 3), (1, 2, 2)]),
        scale=st.sampled_from([0.1, 1.0, 10.0]),
    )


temperatures = st.sampled_from([0.5, 1.0, 2.5, 4.0])

Position = tuple[Tensor, Tensor, int]


def positions(case: Case) -> Iterator[Position]:
    """The logits ``(C,)`` and the target at every position, in the order of ``target.flatten()``."""
    classes = case.student.shape[1]
    student, teacher = (logits.movedim(1, -1).reshape(-1, classes) for logits in (case.student, case.teacher))
    yield from zip(student, teacher, case.target.flatten().tolist(), strict=True)


def by_equation(case: Case, equation: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """An equation for one position ``(student, teacher, target)`` at all of them; 0 at ignored ones."""
    values = [
        case.student.new_zeros(()) if target == IGNORED else equation(student, teacher, target)
        for student, teacher, target in positions(case)
    ]
    return torch.stack(values).view(case.target.shape)


def softmax(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def nontarget(values: Tensor, target: int) -> Tensor:
    return torch.stack([value for i, value in enumerate(values) if i != target])


def gradient(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The gradient of the sum of squares: positions count differently, so that none can stand in for another."""
    point = point.detach().clone().requires_grad_()
    # + 0 * point: an equation that ignores every position does not use the point
    (gradient,) = torch.autograd.grad((function(point).square().sum() + 0 * point.sum()), point)
    return gradient


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
