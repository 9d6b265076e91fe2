from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distill.models import PMF, CameraStream, LidarStream
from distill.models.pmf import ResidualFusion
from distill.taps import FeatureTaps

SMALL: dict[str, Any] = {"encoder_name": "resnet18"}


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_networks_have_the_parameters_of_the_papers() -> None:
    # NTDH, Table I, and PMF, which count 20 classes with the one that is ignored
    assert millions(CameraStream(20)) == pytest.approx(21.42, abs=0.005)
    assert millions(CameraStream(19, in_channels=5)) == pytest.approx(21.42, rel=0.001)
    assert millions(PMF(20)) == pytest.approx(36.3, abs=0.05)
    # what the fusion and the camera's encoder add
    assert millions(LidarStream(20)) == pytest.approx(8.94, abs=0.005)


@pytest.mark.parametrize("size", [(32, 48), (37, 50), (7, 5)])
def test_logits_have_the_size_of_the_input(size: tuple[int, int]) -> None:
    image, lidar = torch.randn(2, 3, *size), torch.randn(2, 5, *size)
    assert CameraStream(7, **SMALL)(image).shape == (2, 7, *size)
    assert LidarStream(7, base_channels=4)(lidar).shape == (2, 7, *size)
    assert PMF(7, base_channels=4, **SMALL)(image, lidar).shape == (2, 7, *size)


def test_layers_to_tap_are_those_of_the_docstrings() -> None:
    image, lidar = torch.randn(1, 3, 32, 48), torch.randn(1, 5, 32, 48)
    fuse = [f"encoder.fuse.{at}" for at in range(4)]
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    camera = [f"layer{at}" for at in range(1, 5)]
    streams: list[tuple[nn.Module, list[str], list[torch.Tensor], tuple[int, ...]]] = [
        (CameraStream(3), [f"encoder.{name}" for name in camera], [image], (64, 128, 256, 512)),
        (LidarStream(3), fuse, [lidar], (64, 128, 256, 256)),
        (PMF(3), fuse, [image, lidar], (64, 128, 256, 256)),
        (PMF(3), [f"camera.{name}" for name in camera], [image, lidar], (64, 128, 256, 512)),
    ]
    for network, layers, inputs, channels in streams:
        _, features = FeatureTaps(network.eval(), layers)(*inputs)
        shapes = [tuple(features[layer].shape) for layer in layers]
        assert shapes == [(1, count, *size) for count, size in zip(channels, sizes, strict=True)]
    _, features = FeatureTaps(LidarStream(3).eval(), ["decoder"])(lidar)
    assert features["decoder"].shape == (1, 32, 32, 48)


def test_the_fused_network_sees_both_and_without_fusion_is_the_lidar_stream() -> None:
    torch.manual_seed(0)
    fused = PMF(3, base_channels=4, **SMALL).eval()
    image, lidar = torch.randn(1, 3, 32, 48), torch.randn(1, 5, 32, 48)
    logits = fused(image, lidar)
    assert not torch.allclose(logits, fused(image.flip(-1), lidar))
    assert not torch.allclose(logits, fused(image, lidar.flip(-1)))
    for block in fused.encoder.fuse:
        # an attention of zero lets nothing through
        assert isinstance(block, ResidualFusion)
        nn.init.constant_(block.attention.get_submodule("4").bias, -1e4)  # type: ignore[arg-type]
    alone = LidarStream(3, base_channels=4).eval()
    own = alone.state_dict()
    alone.load_state_dict({name: values for name, values in fused.state_dict().items() if name in own})
    torch.testing.assert_close(fused(image, lidar), alone(lidar))


def test_pixels_beyond_the_input_are_padding_alone() -> None:
    torch.manual_seed(0)
    network, lidar = LidarStream(3, base_channels=4).eval(), torch.randn(1, 5, 30, 40)
    padded = torch.nn.functional.pad(lidar, (0, 8, 0, 2))
    torch.testing.assert_close(network(lidar), network(padded)[..., :30, :40])


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (CameraStream(2, **SMALL), [(1, 5, 8, 8)], r"input must be \(N, 3, H, W\), got \(1, 5, 8, 8\)"),
        (LidarStream(2, base_channels=4), [(1, 3, 8, 8)], r"lidar must be \(N, 5, H, W\), got \(1, 3, 8, 8\)"),
        (PMF(2, base_channels=4, **SMALL), [(1, 5, 8, 8), (1, 3, 8, 8)], r"image must be \(N, 3, H, W\)"),
        (PMF(2, base_channels=4, **SMALL), [(1, 3, 8, 8), (1, 5, 8, 9)], "image and lidar must be of one size"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(network: nn.Module, inputs: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        network(*(torch.zeros(shape) for shape in inputs))


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_an_encoder_that_is_no_plain_resnet_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"as resnet34, got '{name}'$"):
        CameraStream(2, encoder_name=name)
