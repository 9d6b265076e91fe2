"""Losses of logits divided by a temperature are exact in float32 at any temperature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from distill.losses import cwd_loss, decoupled_kd_terms, dkd_loss, dwld_loss, kd_loss
from distill.losses.parts.logits import softened
from distill.metrics import nontarget_jsd, target_jsd

Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def weights(logits: Tensor) -> Tensor:
    return torch.linspace(1, 3, logits.shape[1], dtype=logits.dtype).view(1, -1, 1).expand_as(logits)


def dwld(form: str, student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    beta = weights(student)
    return dwld_loss(student, teacher, target, beta, temperature=temperature, form=form, reduction="none")  # type: ignore[arg-type]


def jsd(divergence: Callable[..., Tensor], student: Tensor, teacher: Tensor, target: Tensor, t: float) -> Tensor:
    return t**2 * divergence(softened(student, t), softened(teacher, t), target)


LOSSES: dict[str, Loss] = {
    "kd": lambda s, t, y, temperature: kd_loss(s, t, temperature=temperature, reduction="none"),
    "tckd": lambda s, t, y, temperature: decoupled_kd_terms(s, t, y, temperature=temperature)[0],
    "nckd": lambda s, t, y, temperature: decoupled_kd_terms(s, t, y, temperature=temperature)[1],
    "dkd": lambda s, t, y, temperature: dkd_loss(s, t, y, temperature=temperature, reduction="none"),
    "dwld": partial(dwld, "bregman"),
    "dwld, kl": partial(dwld, "kl"),
    "cwd": lambda s, t, y, temperature: cwd_loss(s, t, temperature=temperature, reduction="none"),
    "target_jsd": partial(jsd, target_jsd),
    "nontarget_jsd": partial(jsd, nontarget_jsd),
}


@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0, 100.0, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_float32_has_the_value_and_the_gradient_of_float64(loss: Loss, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # numbers of float32, so that both types have the same logits
    student, teacher = 2 * torch.randn(2, 4, 20, 6, generator=generator)
    target = torch.randint(20, (4, 6), generator=generator)

    def of(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        leaf = student.to(dtype, copy=True).requires_grad_()
        values = loss(leaf, teacher.to(dtype), target, temperature)
        (slope,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), slope

    (values, slope), (exact, exact_slope) = of(torch.float32), of(torch.float64)
    assert (values - exact).abs().max() < 1e-4 * exact.abs().max()
    assert (slope - exact_slope).abs().max() < 1e-4 * exact_slope.abs().max()
