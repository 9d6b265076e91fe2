from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from distill.models import BTS
from distill.models.bts import DILATIONS, DenseASPP, PlaneGuidance, local_planar_guidance
from distill.taps import FeatureTaps


def test_it_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in BTS().parameters())
    assert parameters == pytest.approx(47.0e6, rel=0.01)


def test_a_fronto_parallel_plane_has_one_depth() -> None:
    normal = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 3)
    distance = torch.arange(1.0, 7.0).view(1, 1, 2, 3)
    depth = local_planar_guidance(normal, distance, 4)
    assert depth.shape == (1, 1, 8, 12)
    torch.testing.assert_close(depth, torch.kron(distance[0, 0], torch.ones(4, 4))[None, None])


def test_a_slanted_plane_by_hand() -> None:
    # k = 2: pixels at u, v = -1/4, 1/4; n = (0.6, 0, 0.8): 0.8 -+ 0.15
    slanted = torch.tensor([0.6, 0.0, 0.8]).view(1, 3, 1, 1)
    depth = local_planar_guidance(slanted, torch.full((1, 1, 1, 1), 13.0), 2)
    torch.testing.assert_close(depth[0, 0], torch.tensor([[13 / 0.65, 13 / 0.95], [13 / 0.65, 13 / 0.95]]))
    downwards = local_planar_guidance(slanted[:, [1, 0, 2]], torch.full((1, 1, 1, 1), 13.0), 2)
    torch.testing.assert_close(downwards, depth.mT)


def test_points_of_a_patch_lie_on_its_plane() -> None:
    normal = F.normalize(torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64), dim=0)
    depth = local_planar_guidance(normal.view(1, 3, 1, 1), torch.full((1, 1, 1, 1), 7.0, dtype=torch.float64), 8)[0, 0]
    for row in range(8):
        for column in range(8):
            ray = torch.tensor([(column - 3.5) / 8, (row - 3.5) / 8, 1.0], dtype=torch.float64)
            assert (normal @ (depth[row, column] * ray)).item() == pytest.approx(7.0)


def test_no_depth_is_negative_or_infinite_behind_the_steepest_plane() -> None:
    angle, direction = math.pi / 3, math.pi / 4
    steep = [math.sin(angle) * math.cos(direction), math.sin(angle) * math.sin(direction), math.cos(angle)]
    depth = local_planar_guidance(torch.tensor(steep).view(1, 3, 1, 1), torch.full((1, 1, 1, 1), 80.0), 8)
    assert depth.isfinite().all()
    assert depth.min() > 0


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_plane_guidance_gives_shares_of_the_largest_depth(scale: int) -> None:
    guidance = PlaneGuidance(16, 16, scale, max_depth=80.0)
    last = guidance.reduce[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)  # sigmoids of 1/2: a slope of 30 degrees towards -u, a distance of 40 m
    share = guidance(torch.randn(1, 16, 2, 3))
    assert share.shape == (1, 1, 2 * scale, 3 * scale)
    u = -(scale - 1) / 2 / scale
    assert share[0, 0, 0, 0].item() == pytest.approx(0.5 / (-0.5 * u + math.sqrt(3) / 2), rel=1e-5)


def test_the_skip_connections_of_a_densenet_are_behind_its_transitions() -> None:
    torch.manual_seed(0)
    reference: Any = timm.create_model("densenet121", pretrained=False).eval()
    torch.manual_seed(0)
    network = BTS("densenet121", decoder_channels=16).eval()
    image = torch.randn(1, 3, 64, 64)
    wanted = ("norm0", "pool0", "transition1", "transition2", "norm5")
    expected, feature = [], image
    with torch.no_grad():
        for name, layer in reference.features.named_children():
            feature = layer(feature)
            if name in wanted:
                expected.append(feature)
        torch.testing.assert_close([*network.encoder(image)], expected)


def test_each_atrous_convolution_sees_the_ones_before_it() -> None:
    aspp = DenseASPP(4, 10, 3).eval()
    feature, beside = torch.randn(2, 1, 4, 9, 9)[0], torch.randn(1, 10, 9, 9)
    _, outputs = FeatureTaps(aspp, [f"atrous.{i}" for i in range(5)])(feature, beside)
    *before, last = outputs.values()
    torch.testing.assert_close(last, aspp.atrous[-1](torch.cat([beside, *before], 1)))


def test_an_atrous_convolution_reaches_as_far_as_its_dilation() -> None:
    aspp = DenseASPP(1, 1, 1).eval()
    impulse = torch.zeros(1, 1, 61, 61)
    impulse[..., 30, 30] = 1
    first = aspp.atrous[0]
    for parameter in first.parameters():
        nn.init.ones_(parameter)
    difference = (first(impulse) - first(torch.zeros_like(impulse)))[0, 0]
    reached = difference.nonzero() - 30
    assert sorted(set(reached.flatten().tolist())) == [-DILATIONS[0], 0, DILATIONS[0]]


def test_the_border_is_extended_and_cropped_where_the_size_is_no_multiple_of_32() -> None:
    network = BTS("mobilenetv3_small_050", decoder_channels=16).eval()
    image = torch.randn(1, 3, 40, 70)
    padded = F.pad(image, (0, 26, 0, 24), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(padded)[..., :40, :70])


def test_layers_to_tap_have_the_documented_channels_and_strides() -> None:
    network = BTS("mobilenetv3_small_050", decoder_channels=32).eval()
    _, features = FeatureTaps(network, ["aspp", "up.2"])(torch.randn(1, 3, 64, 96))
    assert features["aspp"].shape == (1, 8, 8, 12)
    assert features["up.2"].shape == (1, 2, 64, 96)


@pytest.mark.parametrize("channels", [8, 40])
def test_a_width_that_cannot_be_halved_to_the_end_is_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"decoder_channels must be a multiple of 16, got {channels}"):
        BTS("resnet18", decoder_channels=channels)


def test_an_unknown_densenet_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no 'densenet122'"):
        BTS("densenet122")
