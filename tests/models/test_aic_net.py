from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from distill.models import AICNet
from distill.models.aic_net import AnisotropicConv, AnisotropicModule
from distill.taps import FeatureTaps


def test_networks_have_the_parameters_of_the_paper() -> None:
    for in_channels in (1, 3):
        count = sum(parameter.numel() for parameter in AICNet(40, in_channels).parameters()) / 1e6
        assert count == pytest.approx(0.17, rel=0.005)  # NTDH, Table I


@pytest.mark.parametrize("size", [(32, 48), (37, 51), (5, 4)])
def test_logits_have_the_size_of_the_input(size: tuple[int, int]) -> None:
    assert AICNet(7, width=8)(torch.randn(2, 3, *size)).shape == (2, 7, *size)


def test_layers_to_tap_are_those_of_the_docstring() -> None:
    layers = ["modules_4.0", "modules_4.1", "modules_8.0", "modules_8.1", "merge"]
    _, features = FeatureTaps(AICNet(3, 1).eval(), layers)(torch.randn(1, 1, 32, 48))
    shapes = [tuple(features[layer].shape) for layer in layers]
    assert shapes == [(1, 64, 8, 12), (1, 64, 8, 12), (1, 64, 4, 6), (1, 64, 4, 6), (1, 32, 8, 12)]


@pytest.mark.parametrize("axis", [2, 3])
def test_an_anisotropic_convolution_sees_along_its_axis_alone(axis: int) -> None:
    torch.manual_seed(0)
    conv = AnisotropicConv(2, axis).eval()
    conv.norm = nn.Sequential()
    x = torch.randn(1, 2, 11, 11, requires_grad=True)
    (gradient,) = torch.autograd.grad(conv(x)[0, :, 5, 5].sum(), x)
    seen = gradient.abs().sum((0, 1)) > 0
    expected = torch.zeros(11, 11, dtype=torch.bool)
    line = slice(2, 9)  # the longest kernel has 7
    expected[(line, 5) if axis == 2 else (5, line)] = True
    assert torch.equal(seen, expected)


def test_a_position_that_chooses_one_length_gets_the_convolution_of_that_length() -> None:
    torch.manual_seed(0)
    conv, x = AnisotropicConv(2, 3).eval(), torch.randn(1, 2, 5, 9)
    conv.norm = nn.Sequential()
    nn.init.zeros_(conv.choice.weight)
    assert conv.choice.bias is not None
    for chosen in range(3):
        with torch.no_grad():
            conv.choice.bias.copy_(100.0 * nn.functional.one_hot(torch.tensor(chosen), 3))
        torch.testing.assert_close(conv(x), conv.convs[chosen](x))


def test_a_module_adds_to_its_input_and_looks_along_both_axes() -> None:
    torch.manual_seed(0)
    module, x = AnisotropicModule(32).eval(), torch.rand(1, 32, 17, 17, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[0, :, 8, 8].sum(), x)
    seen = gradient.abs().sum((0, 1)) > 0
    expected = torch.zeros(17, 17, dtype=torch.bool)
    expected[5:12, 5:12] = True  # 7 along the columns, then 7 along the rows
    assert torch.equal(seen, expected)
    nn.init.zeros_(module.residual.get_parameter("4.weight"))
    assert torch.equal(module(x), x)


def test_the_outputs_of_all_four_modules_one_after_the_other_are_merged() -> None:
    torch.manual_seed(0)
    network, seen = AICNet(3, width=8).eval(), []
    modules = [*network.modules_4, *network.modules_8]
    for module in modules:
        module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    network.merge.register_forward_hook(lambda _, inputs, __: seen.append((inputs[0], inputs[0])))
    network(torch.randn(1, 3, 32, 48))
    *passed, (merged, _) = seen
    for at, ((_, output), (following, _)) in enumerate(pairwise(passed)):
        assert torch.equal(following, network.pool(output) if at == 1 else output)
    for (_, output), part in zip(passed, merged.chunk(4, 1), strict=True):
        size = part.shape[2:]
        assert torch.equal(part, nn.functional.interpolate(output, size, mode="bilinear", align_corners=False))


def test_an_input_with_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^input must be \(N, 1, H, W\), got \(1, 3, 8, 8\)$"):
        AICNet(2, 1)(torch.zeros(1, 3, 8, 8))
