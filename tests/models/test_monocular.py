"""What all networks that take the depth from one image owe their users."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from distill.models import BTS, AdaBins, DepthUNet
from distill.models.monocular import encoder_pyramid

MIN_DEPTH, MAX_DEPTH = 0.5, 20.0
ENCODER = "mobilenetv3_small_050"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "DepthUNet": lambda: DepthUNet(f"tu-{ENCODER}", 16, MIN_DEPTH, MAX_DEPTH, (16, 8, 8, 8)),
    "regression": lambda: DepthUNet(f"tu-{ENCODER}", None, MIN_DEPTH, MAX_DEPTH, (16, 8, 8, 8)),
    "AdaBins": lambda: AdaBins(ENCODER, 16, MIN_DEPTH, MAX_DEPTH, 64, 8, queries=4, patch_size=4),
    "BTS": lambda: BTS(ENCODER, MIN_DEPTH, MAX_DEPTH, 64),
}

every_network = pytest.mark.parametrize("name", NETWORKS)


@cache
def original(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def build(name: str) -> nn.Module:
    return copy.deepcopy(original(name))


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@every_network
@pytest.mark.parametrize("size", [(64, 96), (33, 61), (97, 130)])
def test_depth_has_the_size_of_the_image_and_lies_in_the_range(name: str, size: tuple[int, int]) -> None:
    depth = build(name)(images(*size))
    assert depth.shape == (2, 1, *size)
    assert depth.min() >= MIN_DEPTH
    assert depth.max() <= MAX_DEPTH


@every_network
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = build(name)
    network(images()).square().mean().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


@every_network
def test_it_learns_the_depth_of_two_images(name: str) -> None:
    network = build(name)
    target = torch.linspace(2, 15, 32)[None, None, :, None] * torch.tensor([1.0, 0.5])[:, None, None, None]
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    errors = []
    for _ in range(20):
        error = (network(images(32, 48)).log() - target.log()).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]


@every_network
def test_depth_is_float32_under_autocast(name: str) -> None:
    network = build(name)
    with torch.autocast("cpu", torch.bfloat16):
        depth = network(images())
    assert depth.dtype == torch.float32
    depth.log().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@every_network
def test_depth_is_float32_of_a_network_in_bfloat16(name: str) -> None:
    with torch.no_grad():
        depth = build(name).eval().bfloat16()(images().bfloat16())
        expected = build(name).eval()(images())
    assert depth.dtype == torch.float32
    torch.testing.assert_close(depth, expected, rtol=0.1, atol=0)


@every_network
def test_channels_last_changes_nothing(name: str) -> None:
    network = build(name).eval()
    with torch.no_grad():
        expected = network(images())
        network.to(memory_format=torch.channels_last)
        actual = network(images().to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["DepthUNet", "BTS"])
def test_it_is_exported(name: str) -> None:
    network = build(name).eval()
    exported = torch.export.export(network, (images(),)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images()), network(images()))


@every_network
def test_a_network_with_the_same_weights_predicts_the_same(name: str) -> None:
    network, other = build(name), build(name)
    with torch.no_grad():
        network(images())  # moves the statistics of batch normalisation
        expected = network.eval()(images())
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(network.state_dict())
        assert torch.equal(other.eval()(images()), expected)


@every_network
@pytest.mark.parametrize("shape", [(2, 1, 64, 96), (3, 64, 96)])
def test_what_is_no_image_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image must be \(N, 3, H, W\), got"):
        original(name)(torch.zeros(shape))


@pytest.mark.parametrize("network", [DepthUNet, AdaBins, BTS])
@pytest.mark.parametrize(("low", "high"), [(0.0, 80.0), (10.0, 10.0), (80.0, 1.0)])
def test_an_empty_range_of_depths_is_refused(network: Callable[..., nn.Module], low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"0 < min_depth < max_depth, got {low} and {high}"):
        network(min_depth=low, max_depth=high)


@pytest.mark.parametrize("network", [AdaBins, BTS])
def test_encoders_without_the_five_strides_are_refused(network: Callable[..., nn.Module]) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"'convnext_atto' has \[4, 8, 16, 32\]"):
        network("convnext_atto")
    with pytest.raises(ValueError, match="there is no 'resnet19'"):
        network("resnet19")


def test_an_encoders_channels_are_those_of_its_features() -> None:
    encoder, channels = encoder_pyramid(ENCODER, pretrained=False)
    features = encoder.eval()(torch.randn(1, 3, 64, 96))
    assert [feature.shape[1] for feature in features] == channels
    assert [feature.shape[2] for feature in features] == [32, 16, 8, 4, 2]
