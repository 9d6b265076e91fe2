from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.methods.parts.regressor import Regressor
from tests.losses.cases import assert_near


def feature(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_is_a_convolution_and_batch_normalisation_with_the_statistics_of_the_batch() -> None:
    regressor, batch = Regressor().double(), 3 + feature(4, 5, 2, 3)
    regressor(batch, 6)
    weights = regressor.state_dict()
    weights["normalisation.weight"] += torch.arange(6)[:, None, None]
    weights["normalisation.bias"] -= torch.arange(6)[:, None, None]
    scale, shift = (weights[f"normalisation.{name}"].flatten() for name in ("weight", "bias"))
    for mode in (True, False):
        convolved = F.conv2d(batch, weights["convolution.weight"])
        expected = F.batch_norm(convolved, None, None, scale, shift, training=True)
        assert_near(regressor.train(mode)(batch, 6), expected)


def test_it_does_not_depend_on_the_scale_of_its_input() -> None:
    regressor, batch = Regressor().double(), feature(4, 5, 2, 3)
    assert_near(regressor(1000 * batch, 6), regressor(batch, 6), tolerance=1e-4)


def test_one_value_a_channel_and_constant_channels_become_the_shift() -> None:
    regressor = Regressor().double()
    for batch in (feature(1, 5, 1, 1), torch.ones(4, 5, 2, 3).double()):
        batch.requires_grad_()
        regressed = regressor(batch, 6)
        assert_near(regressed, torch.zeros_like(regressed))
        (gradient,) = torch.autograd.grad((regressed - 1).square().sum(), batch)
        assert torch.isfinite(gradient).all()
