"""BTS (Lee et al., arXiv 2019)."""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from timm.models import FeatureListNet
from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import UserError
from distill.models.monocular import check_depths, check_image, encoder_pyramid

DILATIONS = (3, 6, 12, 18, 24)
LARGEST_SLOPE = math.pi / 3
SMALLEST_COSINE = 0.02


class BTS(nn.Module):
    """Depth from one image; at each scale, planes through patches of the image guide the decoder.

    Source: Lee et al., "From Big to Small: Multi-Scale Local Planar Guidance for Monocular Depth Estimation", arXiv
    2019; one of TIE-KD's teachers. After dense atrous spatial pyramid pooling at stride 8, each of the decoder's
    features at strides 8, 4 and 2 gives a plane for every pixel, and the planes a depth at the image's size
    (``local_planar_guidance``). These depths, and one regressed at that size, give the final depth. The image is padded
    to a multiple of 32 with its border values and the depth is cropped, so images may have any height and width.

    With ``densenet161`` it has 47.0 M parameters, the number of the paper. As in the paper, the skip connections of a
    DenseNet are the narrow features behind its transitions.

    Layers to tap: ``aspp``, stride 8, and ``up.2``, stride 1: ``decoder_channels / 4`` and ``/ 16`` channels.

    Args:
        encoder_name: A convolutional network of timm with features at strides 2 to 32, as ``resnet18``.
        min_depth: The smallest depth, in metres.
        max_depth: The largest depth, in metres: 80 for KITTI, 10 for NYU Depth v2.
        decoder_channels: The decoder's width at stride 16; a multiple of 16.
        pretrained: Whether the encoder starts from timm's ImageNet weights, which are downloaded.

    Raises:
        ValueError: There is no such encoder, it has other strides, the range of depths is empty, or
            ``decoder_channels`` is no multiple of 16. From ``forward``: the image is not ``(N, 3, H, W)``.
    """

    def __init__(
        self,
        encoder_name: str = "densenet161",
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        decoder_channels: int = 512,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        check_depths(min_depth, max_depth)
        if decoder_channels < 16 or decoder_channels % 16:
            raise UserError(f"decoder_channels must be a multiple of 16, got {decoder_channels}")
        self.min_depth = min_depth
        self.max_depth = max_depth
        build = _densenet if encoder_name.startswith("densenet") else encoder_pyramid
        self.encoder, (skip2, skip4, skip8, skip16, smallest) = build(encoder_name, pretrained)
        half, quarter, eighth, sixteenth = (decoder_channels // share for share in (2, 4, 8, 16))
        self.up16 = Up(smallest, skip16, decoder_channels)
        self.up8 = Up(decoder_channels, skip8, half)
        self.aspp = DenseASPP(half, half + skip8, quarter)
        self.up = nn.ModuleList(
            [Up(quarter, skip4 + 1, quarter), Up(quarter, skip2 + 1, eighth), _upsampling_conv(eighth, sixteenth)]
        )
        self.planes = nn.ModuleList(
            [
                PlaneGuidance(quarter, quarter, 8, max_depth),
                PlaneGuidance(quarter, eighth, 4, max_depth),
                PlaneGuidance(eighth, sixteenth, 2, max_depth),
            ]
        )
        self.regression = nn.Sequential(*_reduction(sixteenth, sixteenth // 2, 1), nn.Sigmoid())
        self.head = nn.Sequential(_conv_elu(sixteenth + 4, sixteenth), nn.Conv2d(sixteenth, 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(N, 1, H, W)`` in metres for ``(N, 3, H, W)``."""
        check_image(image)
        height, width = image.shape[-2:]
        skip2, skip4, skip8, skip16, smallest = self.encoder(
            F.pad(image, (0, -width % 32, 0, -height % 32), mode="replicate")
        )
        grown, fused = self.up8(self.up16(smallest, skip16)[1], skip8)
        feature = self.aspp(fused, grown)
        guides = []
        for planes, up, skip in zip(self.planes, self.up, (skip4, skip2, None), strict=True):
            guides.append(planes(feature))
            if skip is None:
                feature = up(feature)
            else:
                near = F.interpolate(guides[-1], size=skip.shape[-2:], mode="nearest")
                feature = up(feature, torch.cat([skip, near], 1))[1]
        share: Tensor = (
            self.head(torch.cat([feature, self.regression(feature), *reversed(guides)], 1)).float().sigmoid()
        )
        depth = self.min_depth + (self.max_depth - self.min_depth) * share
        return depth[..., :height, :width]


class Up(nn.Module):
    """Upsamples a feature by 2 and fuses it with a skip connection.

    Args:
        in_channels: Channels of the feature.
        skip_channels: Channels of the skip connection.
        channels: Channels of the output.
    """

    def __init__(self, in_channels: int, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.grow = nn.Sequential(_upsampling_conv(in_channels, channels), nn.BatchNorm2d(channels))
        self.fuse = _conv_elu(channels + skip_channels, channels)

    def forward(self, feature: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The upsampled feature beside the skip connection, and both fused: ``channels`` of them."""
        beside = torch.cat([self.grow(feature), skip], 1)
        return beside, self.fuse(beside)


class DenseASPP(nn.Module):
    """Dilated convolutions of growing dilation; each also gets the outputs of those before it.

    Args:
        in_channels: Channels of the feature.
        beside_channels: Channels of the feature that all convolutions but the first get beside these outputs.
        channels: Channels of each convolution's output, and of the result.
    """

    def __init__(self, in_channels: int, beside_channels: int, channels: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(in_channels)
        seen = [in_channels, *(beside_channels + channels * before for before in range(1, len(DILATIONS)))]
        self.atrous = nn.ModuleList(
            _atrous_conv(width, channels, dilation) for width, dilation in zip(seen, DILATIONS, strict=True)
        )
        self.fuse = _conv_elu(in_channels + channels * len(DILATIONS), channels)

    def forward(self, feature: Tensor, beside: Tensor) -> Tensor:
        """``(N, channels, h, w)`` for a feature ``(N, in_channels, h, w)``."""
        feature = self.normalize(feature)
        first, *others = self.atrous
        outputs = [first(feature)]
        for atrous in others:
            outputs.append(atrous(torch.cat([beside, *outputs], 1)))
        fused: Tensor = self.fuse(torch.cat([feature, *outputs], 1))
        return fused


class PlaneGuidance(nn.Module):
    """A plane for every pixel of a feature, and the depth of the planes at the image's size.

    Of three sigmoids the first is the normal's angle with the optical axis, up to 60 degrees, the second its direction
    around it, the third the plane's distance up to ``max_depth``.

    Args:
        in_channels: Channels of the feature.
        channels: Width of the first of the 1x1 convolutions, which is halved down to 8.
        scale: The feature's stride, and so the side of the patch that a plane stands for.
        max_depth: In metres.
    """

    def __init__(self, in_channels: int, channels: int, scale: int, max_depth: float) -> None:
        super().__init__()
        self.scale = scale
        self.max_depth = max_depth
        self.reduce = nn.Sequential(*_reduction(in_channels, channels, 3))

    def forward(self, feature: Tensor) -> Tensor:
        """Depths ``(N, 1, scale h, scale w)`` as shares of ``max_depth``, for a feature ``(N, in_channels, h, w)``."""
        slope, direction, distance = self.reduce(feature).float().sigmoid().chunk(3, 1)
        slope, direction = LARGEST_SLOPE * slope, 2 * math.pi * direction
        normal = torch.cat([slope.sin() * direction.cos(), slope.sin() * direction.sin(), slope.cos()], 1)
        depth = local_planar_guidance(normal, self.max_depth * distance, self.scale)
        return (depth / self.max_depth).to(feature.dtype)


def local_planar_guidance(normal: Tensor, distance: Tensor, scale: int) -> Tensor:
    """The depth of planes seen through patches of the image.

    A plane with the unit normal (n1, n2, n3) at the distance n4 has the depth n4 / (n1 u + n2 v + n3) (eq. 2), where
    (u, v) is the position of a pixel in its patch: the i-th of ``scale`` pixels is at (i - (scale - 1) / 2) / scale.
    Steep planes can be parallel to a ray through a corner of the patch. The equation then has no positive solution, so
    the denominator is at least 0.02.

    Args:
        normal: ``(N, 3, h, w)`` unit normals.
        distance: ``(N, 1, h, w)`` in metres.
        scale: k, the side of a patch in pixels.

    Returns:
        ``(N, 1, k h, k w)`` in metres.
    """
    place = (torch.arange(scale, device=normal.device, dtype=normal.dtype) - (scale - 1) / 2) / scale
    rows, columns = normal.shape[-2:]
    u, v = place.repeat(columns), place.repeat(rows).unsqueeze(1)
    n1, n2, n3 = normal.repeat_interleave(scale, 2).repeat_interleave(scale, 3).split(1, 1)
    n4 = distance.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    depth: Tensor = n4 / (n1 * u + n2 * v + n3).clamp(min=SMALLEST_COSINE)
    return depth


def _densenet(name: str, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """A DenseNet of timm that returns the features that BTS takes: those after the transitions, not before them."""
    if not timm.is_model(name):
        raise UserError(f"encoder_name must be a network of timm, as densenet161; there is no {name!r}")
    network: Any = timm.create_model(name, pretrained=pretrained)
    stem, last = network.feature_info[0], network.feature_info[-1]
    widths = [stem["num_chs"], *(getattr(network.features, f"transition{i}").conv.out_channels for i in (1, 2))]
    ends = ["pool0", "transition1", "transition2"]
    network.feature_info = [
        stem,
        *(
            {"num_chs": width, "reduction": stride, "module": f"features.{end}"}
            for width, stride, end in zip(widths, (4, 8, 16), ends, strict=True)
        ),
        last,
    ]
    return FeatureListNet(network, flatten_sequential=True), [stem["num_chs"], *widths, last["num_chs"]]


def _conv_elu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.ELU())


def _upsampling_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), _conv_elu(in_channels, out_channels))


def _atrous_conv(in_channels: int, out_channels: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, 2 * out_channels, 1, bias=False),
        nn.BatchNorm2d(2 * out_channels),
        nn.ReLU(),
        nn.Conv2d(2 * out_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False),
    )


def _reduction(in_channels: int, channels: int, out_channels: int) -> list[nn.Module]:
    """1x1 convolutions with ELU, of halving widths down to 8, and a last one without."""
    layers: list[nn.Module] = []
    while channels >= 8:
        layers += [nn.Conv2d(in_channels, channels, 1, bias=False), nn.ELU()]
        in_channels, channels = channels, channels // 2
    return [*layers, nn.Conv2d(in_channels, out_channels, 1, bias=False)]
