"""What all networks for small images have in common."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from distill import models
from distill.models.cifar import CifarResNet, CifarVGG, WideResNet
from distill.models.cifar.network import CifarNetwork
from distill.taps import FeatureTaps

RESNET = {"stem": 1, "stage1": 1, "stage2": 2, "stage3": 4}
VGG = {"stem": 1, "stage1": 2, "stage2": 4, "stage3": 8, "stage4": 8}
WRN = {**RESNET, "final": 4}
SHUFFLENET = {"stem": 1, "stage1": 2, "stage2": 4, "stage3": 8}
MOBILENET = {"stem": 2, "stage1": 2, "stage2": 4, "stage3": 8, "stage4": 16, "final": 16}


class Documented(NamedTuple):
    """What is published of a network, or written in its docstring."""

    parameters: float
    """In millions, at 100 classes."""
    strides: dict[str, int]
    channels: tuple[int, ...]


DOCUMENTED = {
    "ResNet8x4": Documented(1.23, RESNET, (32, 64, 128, 256)),
    "ResNet32x4": Documented(7.43, RESNET, (32, 64, 128, 256)),
    "ResNet20": Documented(0.278, RESNET, (16, 16, 32, 64)),
    "ResNet56": Documented(0.862, RESNET, (16, 16, 32, 64)),
    "ResNet110": Documented(1.737, RESNET, (16, 16, 32, 64)),
    "VGG8": Documented(3.97, VGG, (64, 128, 256, 512, 512)),
    "VGG13": Documented(9.46, VGG, (64, 128, 256, 512, 512)),
    "WRN16x2": Documented(0.703, WRN, (16, 32, 64, 128, 128)),
    "WRN40x2": Documented(2.26, WRN, (16, 32, 64, 128, 128)),
    "ShuffleNetV1": Documented(0.95, SHUFFLENET, (24, 240, 480, 960)),
    "ShuffleNetV2": Documented(1.36, {**SHUFFLENET, "final": 8}, (24, 116, 232, 464, 1024)),
    "MobileNetV2": Documented(0.81, MOBILENET, (16, 12, 16, 48, 160, 1280)),
}


def build(name: str, num_classes: int, in_channels: int = 3) -> CifarNetwork:
    network = getattr(models, name)(num_classes, in_channels)
    assert isinstance(network, CifarNetwork)
    return network


@pytest.fixture(params=DOCUMENTED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_are_as_many_parameters_as_published(name: str) -> None:
    parameters = sum(parameter.numel() for parameter in build(name, 100).parameters())
    assert parameters == pytest.approx(1e6 * DOCUMENTED[name].parameters, rel=0.01)


@pytest.mark.parametrize(("in_channels", "size"), [(3, (32, 32)), (1, (28, 28)), (2, (27, 33)), (1, (3, 5))])
def test_layers_have_the_documented_channels_and_strides_at_any_size(
    name: str, in_channels: int, size: tuple[int, int]
) -> None:
    _, strides, channels = DOCUMENTED[name]
    taps = FeatureTaps(build(name, 10, in_channels), [*strides, "pool", "fc"])
    prediction, features = taps(torch.randn(2, in_channels, *size))
    expected = [
        (2, width, *(math.ceil(length / stride) for length in size))
        for width, stride in zip(channels, strides.values(), strict=True)
    ]
    assert [tuple(feature.shape) for feature in features.values()] == [*expected, (2, channels[-1]), (2, 10)]
    assert torch.equal(features["fc"], prediction)


def test_the_last_feature_is_averaged_over_positions_and_classified(name: str) -> None:
    *_, last = DOCUMENTED[name].strides
    network = build(name, 4)
    prediction, features = FeatureTaps(network, [last, "pool"])(torch.randn(2, 3, 19, 32))
    torch.testing.assert_close(features["pool"], features[last].mean((2, 3)))
    torch.testing.assert_close(prediction, features["pool"] @ network.fc.weight.T + network.fc.bias)


def activations(name: str) -> dict[str, str]:
    """The layers that end in a ReLU, and under which name the feature before it is documented."""
    if name.startswith("WRN"):
        return {layer: f"{layer}.0" for layer in ("final", "stage2.0.activation", "stage3.0.activation")}
    layers = ("stem", "final") if name == "MobileNetV2" else DOCUMENTED[name].strides
    return {layer: f"{layer}.preact" for layer in layers}


def test_features_before_and_after_a_relu_can_both_be_tapped(name: str) -> None:
    pairs = activations(name)
    _, features = FeatureTaps(build(name, 4), [*pairs, *pairs.values()])(torch.randn(2, 3, 32, 32))
    for after, before in pairs.items():
        assert features[before].min() < 0
        assert torch.equal(features[after], features[before].relu())


def test_features_between_linear_bottlenecks_and_preactivation_blocks_have_both_signs() -> None:
    for name in ("MobileNetV2", "WRN16x2"):
        stages = [layer for layer in DOCUMENTED[name].strides if layer.startswith("stage")]
        _, features = FeatureTaps(build(name, 4), stages)(torch.randn(2, 3, 32, 32))
        assert all(feature.min() < 0 < feature.max() for feature in features.values())


def test_no_layer_changes_what_was_tapped_before(name: str) -> None:
    network = build(name, 4)
    heard: list[tuple[str, Tensor, Tensor]] = []

    def listen(layer: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda module, inputs, output: heard.append((layer, output, output.clone())))

    for layer, module in network.named_modules():
        listen(layer, module)
    network(torch.randn(2, 3, 16, 16)).sum().backward()
    assert len(heard) > 20
    assert [layer for layer, output, at_once in heard if not torch.equal(output, at_once)] == []


def test_every_parameter_is_trained(name: str) -> None:
    network = build(name, 4)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_convolutions_start_as_he_et_al_do(name: str) -> None:
    for module in build(name, 4).modules():
        if isinstance(module, nn.Conv2d):
            inputs = math.prod(module.kernel_size) * module.in_channels // module.groups
            # the standard deviation of n values is known to about 1 / sqrt(2 n) of itself
            tolerance = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=tolerance)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (1, 28, 28), (2, 784)])
def test_images_of_other_channels_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*in_channels=1 .*\(N, 1, H, W\), got \({shape[0]}, {shape[1]}"):
        build(name, 4, in_channels=1)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("network", "widths"),
    [(CifarResNet(14, (4, 5, 6, 7), 10), (4, 5, 6, 7)), (CifarVGG(2, (4, 5, 6, 7, 8), 10), (4, 5, 6, 7, 8))],
)
def test_a_narrow_network_has_the_channels_that_it_is_given(network: CifarNetwork, widths: tuple[int, ...]) -> None:
    stages = ["stem", *(f"stage{number}" for number in range(1, len(widths)))]
    _, features = FeatureTaps(network, stages)(torch.randn(2, 3, 16, 16))
    assert tuple(feature.shape[1] for feature in features.values()) == widths


@pytest.mark.parametrize("depth", [2, 9, 22, -4])
def test_a_resnet_of_a_depth_that_does_not_exist_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6 n \\+ 2 .*, got {depth}"):
        CifarResNet(depth, (16, 16, 32, 64), 10)


@pytest.mark.parametrize("depth", [4, 20, 41, -2])
def test_a_wide_resnet_of_a_depth_that_does_not_exist_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6 n \\+ 4 .*, got {depth}"):
        WideResNet(depth, 2, 10)
