from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill.models import DepthUNet
from distill.models.depth_unet import UpsampledConv
from distill.taps import FeatureTaps

SMALL = (16, 8, 8, 8)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("backbone", "paper"), [("mobilenet_v2", 17.6e6), ("resnet18", 16.7e6), ("resnet50", 78.3e6)])
def test_students_have_the_parameters_of_the_paper(backbone: str, paper: float) -> None:
    with torch.device("meta"):
        parameters = count(DepthUNet(backbone))
    assert parameters == pytest.approx(paper, rel=0.05)


def test_the_encoder_of_mobilenet_has_stride_8_as_released() -> None:
    features = DepthUNet().encoder.eval()(torch.randn(1, 3, 64, 96))
    assert [tuple(feature.shape[1:]) for feature in features[2:]] == [
        (24, 16, 24),
        (32, 8, 12),
        (96, 8, 12),
        (1280, 8, 12),
    ]


def test_depth_is_the_mean_of_the_midpoints_of_equal_bins() -> None:
    student = DepthUNet("tu-mobilenetv3_small_050", 4, 1.0, 9.0, SMALL).eval()
    depth, features = FeatureTaps(student, ["bins"])(torch.randn(2, 3, 50, 70))
    logits = features["bins"]
    assert logits.shape == (2, 4, 50, 70)
    probabilities = logits.double().softmax(1)
    expected = sum(probabilities[:, [i]] * center for i, center in enumerate([2.0, 4.0, 6.0, 8.0]))
    torch.testing.assert_close(depth.double(), expected, rtol=1e-5, atol=0)


def test_the_centres_of_the_papers_bins_are_the_released_ones() -> None:
    student = DepthUNet("tu-mobilenetv3_small_050", decoder_channels=SMALL).eval()
    assert student.bins is not None
    nn.init.zeros_(student.bins.conv.weight)
    bias = student.bins.conv.bias
    assert bias is not None
    assert len(bias) == 257
    for chosen, center in ((0, 0.1566), (-1, 79.844)):
        nn.init.zeros_(bias)
        with torch.no_grad():
            bias[chosen] = 100.0
        depth = student(torch.randn(1, 3, 32, 32))
        torch.testing.assert_close(depth, torch.full_like(depth, center), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("output", "depth"), [(-100.0, 1.0), (0.0, 5.0), (100.0, 9.0)])
def test_a_regressed_depth_is_a_share_of_the_range(output: float, depth: float) -> None:
    student = DepthUNet("tu-mobilenetv3_small_050", None, 1.0, 9.0, SMALL).eval()
    assert student.regression is not None
    nn.init.zeros_(student.regression.conv.weight)
    assert student.regression.conv.bias is not None
    nn.init.constant_(student.regression.conv.bias, output)
    torch.testing.assert_close(student(torch.randn(1, 3, 32, 32)), torch.full((1, 1, 32, 32), depth))


def test_without_bins_only_the_last_layer_differs() -> None:
    names = {
        bins: {name for name, _ in DepthUNet("tu-mobilenetv3_small_050", bins, 1.0, 9.0, SMALL).named_parameters()}
        for bins in (4, None)
    }
    assert names[4] ^ names[None] == {
        f"{layer}.conv.{parameter}" for layer in ("bins", "regression") for parameter in ("weight", "bias")
    }


def test_convolving_before_upsampling_is_convolving_after() -> None:
    layer, feature, image = UpsampledConv(4, 6, 1), torch.randn(2, 4, 5, 7), torch.randn(2, 3, 18, 27)
    upsampled = F.interpolate(feature, size=(18, 27), mode="bilinear")
    torch.testing.assert_close(layer(feature, image), layer.conv(upsampled))


def test_the_decoder_sees_the_skip_connections_from_the_smallest_up() -> None:
    student = DepthUNet("tu-mobilenetv3_small_050", 4, decoder_channels=(16, 12, 8)).eval()
    image = torch.randn(1, 3, 50, 70)
    _, features = FeatureTaps(student, ["decoder"])(image)
    *_, skip8, skip16, smallest = student.encoder(image)
    feature = student.decoder.project(smallest)
    for block, skip in zip(student.decoder.blocks, (skip16, skip8), strict=True):
        feature = block(torch.cat([F.interpolate(feature, size=skip.shape[-2:], mode="bilinear"), skip], 1))
    assert feature.shape == (1, 8, 7, 9)
    torch.testing.assert_close(features["decoder"], feature)


@pytest.mark.parametrize(("widths", "stride"), [((8, 8), 16), ((8, 8, 8, 8), 4), ((8, 8, 8, 8, 8), 2)])
def test_each_width_but_the_first_doubles_the_decoders_size(widths: tuple[int, ...], stride: int) -> None:
    student = DepthUNet("tu-mobilenetv3_small_050", 4, decoder_channels=widths).eval()
    _, features = FeatureTaps(student, ["decoder"])(torch.randn(1, 3, 64, 96))
    assert features["decoder"].shape == (1, 8, 64 // stride, 96 // stride)


def test_the_decoder_keeps_the_scale_of_the_features() -> None:
    torch.manual_seed(0)
    decoder = DepthUNet("resnet18", decoder_channels=(256, 128, 64, 64, 64)).decoder
    features = [torch.randn(1, width, 64 // 2**i, 96 // 2**i).relu() for i, width in enumerate((64, 64, 128, 256, 512))]
    assert 0.3 < decoder(features).square().mean().sqrt() < 3


@pytest.mark.parametrize("backbone", ["mit_b0", "tu-convnext_atto", "efficientnet-b0"])
def test_any_encoder_of_the_library_will_do(backbone: str) -> None:
    student = DepthUNet(backbone, 4, decoder_channels=SMALL).eval()
    with torch.no_grad():
        assert student(torch.randn(1, 3, 64, 96)).shape == (1, 1, 64, 96)


def test_an_output_stride_is_that_of_the_smallest_feature() -> None:
    for stride in (8, 16, 32):
        encoder = DepthUNet("resnet18", 4, decoder_channels=SMALL, output_stride=stride).encoder
        assert encoder(torch.randn(2, 3, 64, 96))[-1].shape == (2, 512, 64 // stride, 96 // stride)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 0}, "bins must be at least 1, or None to regress depth, got 0"),
        ({"decoder_channels": (8,)}, r"decoder_channels must be two to five widths, got \(8,\)"),
        ({"decoder_channels": (8,) * 6}, "two to five widths"),
    ],
)
def test_what_makes_no_network_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DepthUNet("resnet18", **arguments)  # type: ignore[arg-type]
