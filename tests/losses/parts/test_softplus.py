from __future__ import annotations

import pytest
import torch

from distill.losses.parts import softplus as module
from distill.losses.parts.softplus import softplus
from tests.losses.features import features, gradients


@pytest.fixture(autouse=True)
def whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 0)


def test_values_and_gradients_have_all_digits_from_one_end_of_the_numbers_to_the_other() -> None:
    logits = torch.cat([torch.linspace(-80, 80, 4001), torch.tensor([-torch.inf, -1000, 0, 1000, torch.inf])])
    exact = logits.double().clamp(min=0) + (-logits.double().abs()).exp().log1p()
    torch.testing.assert_close(softplus(logits).double(), exact, rtol=4e-7, atol=0)
    torch.testing.assert_close(gradients(softplus, logits)[0].double(), logits.double().sigmoid(), rtol=4e-7, atol=0)
    assert softplus(torch.tensor([torch.nan])).isnan().all()


def test_maps_of_any_layout_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 7)
    maps = features(2, 3, 4, 5)
    expected = softplus(maps)
    torch.testing.assert_close(expected, maps.exp().log1p())
    torch.testing.assert_close(softplus(maps.to(memory_format=torch.channels_last)), expected, rtol=0, atol=0)
    torch.testing.assert_close(softplus(maps[:, 1:2]), expected[:, 1:2], rtol=0, atol=0)


def test_it_can_be_differentiated_twice() -> None:
    points = (5 * features(3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(softplus, points)
    assert torch.autograd.gradgradcheck(softplus, points)


def test_copies_that_train_side_by_side_have_their_own_gradients() -> None:
    logits = 5 * features(3, 4)
    side_by_side = torch.func.vmap(torch.func.grad(lambda x: softplus(x).square().sum()))(logits)
    alone = gradients(lambda x: softplus(x).square(), logits)[0]
    torch.testing.assert_close(side_by_side, alone)
    stacked = gradients(lambda x: torch.func.vmap(softplus, in_dims=1, out_dims=1)(x).square(), logits)[0]
    torch.testing.assert_close(stacked, alone)


def test_few_and_many_numbers_have_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 20 * features(50)
    many = softplus(logits)
    monkeypatch.setattr(module, "FEW", 51)
    torch.testing.assert_close(softplus(logits), many, rtol=0, atol=1e-8)
