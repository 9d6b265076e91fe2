from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.errors import UserError
from distill.models import EarlyFusion, UNet3d
from distill.taps import FeatureTaps


def test_several_modalities_are_one_input_of_all_their_channels() -> None:
    network = UNet3d(3, 2, (2, 4)).eval()
    first, second = torch.randn(1, 1, 4, 6, 2), torch.randn(1, 2, 4, 6, 2)
    logits = network(first, second)
    assert logits.shape == (1, 2, 4, 6, 2)
    assert torch.equal(logits, network(torch.cat([first, second], 1)))


def test_stages_to_tap_have_the_channels_and_strides_of_the_docstring() -> None:
    network = UNet3d(1, 2, (2, 4, 6))
    layers = [f"encoder.{i}" for i in range(3)] + [f"decoder.{i}" for i in range(2)]
    _, features = FeatureTaps(network, layers)(torch.randn(1, 1, 8, 8, 16))
    shapes = [tuple(features[layer].shape[1:]) for layer in layers]
    assert shapes == [(2, 8, 8, 16), (4, 4, 4, 8), (6, 2, 2, 4), (4, 4, 4, 8), (2, 8, 8, 16)]


def test_it_has_the_parameters_of_the_source() -> None:
    # two convolutions and two affine normalisations a stage, one transposed convolution a step up, and the last one
    def stage(before: int, width: int) -> int:
        return 27 * before * width + 27 * width * width + 4 * width

    expected = stage(4, 8) + stage(8, 16) + (8 * 16 * 8 + 8) + stage(16, 8) + (8 * 3 + 3)
    assert sum(parameter.numel() for parameter in UNet3d(4, 3, (8, 16)).parameters()) == expected


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 8, 8, 8), r"takes volumes \(N, c, D, H, W\) of 1 channels together, got \(1, 2, 8, 8, 8\)"),
        ((1, 1, 8, 8), r"takes volumes \(N, c, D, H, W\)"),
        ((1, 1, 8, 6, 8), r"multiples of 4, one of them larger, got \(8, 6, 8\): pad them"),
        ((1, 1, 4, 4, 4), r"multiples of 4, one of them larger, got \(4, 4, 4\)"),
    ],
)
def test_volumes_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UNet3d(1, 2, (2, 2, 2))(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "name"), [((0, 2), "in_channels"), ((1, 0), "num_classes"), ((1, 2, (8,)), "channels")]
)
def test_numbers_out_of_range_are_refused(arguments: tuple[int, int], name: str) -> None:
    with pytest.raises(UserError, match=name):
        UNet3d(*arguments)


def test_a_network_of_one_input_takes_several_after_early_fusion() -> None:
    network = EarlyFusion(nn.Conv3d(3, 2, 1))
    parts = torch.randn(2, 1, 2, 2, 2), torch.randn(2, 2, 2, 2, 2)
    assert torch.equal(network(*parts), network.network(torch.cat(parts, 1)))
