from __future__ import annotations

import pytest
import torch

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


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 1, 31, 40), (1, 3, 1, 32, 32), (1, 32, 32)])
def test_an_input_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^input must be \(N, 1, H, W\), or frames"):
        EmotionNet(in_channels=1)(torch.zeros(shape))


@pytest.mark.parametrize("sizes", [(3, 3), (3, 3, 3, 3, 3, 4)])
def test_kernels_that_cannot_be_centred_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^kernel_sizes must be 6 odd numbers, got"):
        EmotionNet(kernel_sizes=sizes)
