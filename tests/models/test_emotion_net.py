from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.models import EmotionNet
from distill.taps import FeatureTaps


def test_networks_have_the_parameters_of_the_paper() -> None:
    video, audio = EmotionNet(), EmotionNet(in_channels=1, kernel_sizes=(5, 5, 3, 3, 3, 3))
    counts = [sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in (video, audio)]
    # NTDH, Table I
    assert counts == pytest.approx([13.07, 13.24], rel=0.02)


def test_frames_are_seen_as_the_channels_of_one_image() -> None:
    network = EmotionNet(5, in_channels=6).eval()
    frames = torch.randn(2, 3, 2, 32, 40)
    logits = network(frames)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits, network(frames.reshape(2, 6, 32, 40)))


def test_layers_to_tap_are_those_of_the_docstring() -> None:
    layers = [*(f"blocks.{at}" for at in range(6)), "hidden"]
    _, features = FeatureTaps(EmotionNet(in_channels=1).eval(), layers)(torch.randn(1, 1, 64, 96))
    channels, strides = (64, 128, 256, 512, 768, 1024), (2, 4, 8, 16, 32, 32)
    for layer, width, stride in zip(layers, channels, strides, strict=False):
        assert features[layer].shape == (1, width, 64 // stride, 96 // stride)
    assert features["hidden"].shape == (1, 768)


def test_a_block_is_a_convolution_normalised_rectified_and_the_largest_of_four() -> None:
    torch.manual_seed(0)
    block, x = EmotionNet(in_channels=2).blocks.get_submodule("0"), torch.randn(4, 2, 32, 32)
    convolved = nn.functional.conv2d(x, block.get_parameter("0.weight"), padding=1)
    mean, variance = convolved.mean((0, 2, 3), keepdim=True), convolved.var((0, 2, 3), False, keepdim=True)
    normalised = ((convolved - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    expected = normalised.unflatten(2, (16, 2)).unflatten(4, (16, 2)).amax((3, 5))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_dropout_comes_before_the_last_layer_in_training_alone() -> None:
    torch.manual_seed(0)
    network, x = EmotionNet(in_channels=1, dropout=1.0), torch.randn(2, 1, 32, 32)
    assert torch.equal(network(x), network.head.bias.expand(2, -1))
    assert not torch.equal(network.eval()(x), network.head.bias.expand(2, -1))


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 1, 31, 40), (1, 3, 1, 32, 32), (1, 32, 32)])
def test_an_input_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^input must be \(N, 1, H, W\), or frames"):
        EmotionNet(in_channels=1)(torch.zeros(shape))


@pytest.mark.parametrize("sizes", [(3, 3), (3, 3, 3, 3, 3, 4)])
def test_kernels_that_cannot_be_centred_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^kernel_sizes must be 6 odd numbers, got"):
        EmotionNet(kernel_sizes=sizes)
