"""Perception-aware multi-sensor fusion (PMF): a camera's and a lidar's network, alone and fused.

Zhuang et al., "Perception-aware multi-sensor fusion for 3D lidar semantic segmentation", ICCV 2021, on whose networks
PSSM, Sec. B.4, and NTDH, Sec. IV-B, experiment: "with the intermediate fusion layer removed", each stream is a separate
network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import UserError
from distill.models.salsanext import ContextBlock, DownBlock, UpBlock, conv

STRIDE = 16
LIDAR_CHANNELS = 5


class CameraStream(nn.Module):
    """PMF's camera stream: a ResNet whose first convolution keeps the resolution, and a slim decoder.

    It has 21.42 M parameters with ``resnet34`` and 19 classes, the number of NTDH, Table I, for SemanticKITTI. NTDH
    uses this network for both modalities: with ``in_channels=5`` it is the student on points (21.43 M).

    The input may have any height and width: it is padded with zeros to multiples of 16, and the logits are cropped.

    Layers to tap: ``encoder.layer1`` to ``encoder.layer4``, strides 2, 4, 8 and 16 with 64, 128, 256 and 512 channels
    of ``resnet34``.

    Args:
        num_classes: C, the number of logits of a pixel.
        in_channels: 3 for images, 5 for points.
        encoder_name: A ResNet of timm, such as ``resnet34`` or ``resnet50``.
        pretrained: Whether the encoder starts from ImageNet's weights, which are downloaded.

    Raises:
        ValueError: The encoder is no ResNet with a single convolution in front. From ``forward``: the input has other
            channels.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, encoder_name: str = "resnet34", pretrained: bool = False
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = CameraEncoder(in_channels, encoder_name, pretrained)
        self.decoder = CameraDecoder(self.encoder.out_channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(N, C, H, W)`` for ``(N, in_channels, H, W)``."""
        _check_channels("input", image, self.in_channels)
        logits: Tensor = self.decoder(self.encoder(_padded(image)))
        return logits[..., : image.shape[-2], : image.shape[-1]]


class LidarStream(nn.Module):
    """PMF's lidar stream without fusion: SalsaNext with atrous spatial pyramid pooling in the middle.

    It has 8.94 M parameters with PMF's 32 ``base_channels``. The input may have any height and width, as in
    :class:`CameraStream`.

    Layers to tap: ``encoder.fuse.0`` to ``encoder.fuse.3``, strides 2, 4, 8 and 16 with 64, 128, 256 and 256 channels,
    the same in :class:`PMF`; ``decoder``, stride 1, 32 channels.

    Args:
        num_classes: C, the number of logits of a pixel.
        in_channels: The features of a point.
        base_channels: The width of the first layers.

    Raises:
        ValueError: From ``forward``: the input has other channels.
    """

    def __init__(self, num_classes: int, in_channels: int = LIDAR_CHANNELS, base_channels: int = 32) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = LidarEncoder(in_channels, base_channels)
        self.decoder = LidarDecoder(base_channels)
        self.head = nn.Conv2d(base_channels, num_classes, 1)

    def forward(self, lidar: Tensor) -> Tensor:
        """Logits ``(N, C, H, W)`` for ``(N, in_channels, H, W)``."""
        _check_channels("lidar", lidar, self.in_channels)
        logits: Tensor = self.head(self.decoder(self.encoder(_padded(lidar))))
        return logits[..., : lidar.shape[-2], : lidar.shape[-1]]


class PMF(nn.Module):
    """PMF's lidar stream, into which the features of the camera's encoder are fused at four resolutions.

    A fusion convolves both features, weights the result by an attention map and adds it to the lidar's feature. The
    logits are those of the lidar stream, which the paper scores. The paper's camera stream also has a decoder of 0.14 M
    parameters for the perception-aware loss between the two streams. Nothing would train that decoder here, so it is
    left out. With the defaults and 19 classes it has 36.28 M parameters; the paper gives 36.3 M.

    The inputs may have any height and width, as in :class:`CameraStream`. Layers to tap: as in :class:`LidarStream`,
    and ``camera.layer1`` to ``camera.layer4``.

    Args:
        num_classes: C, the number of logits of a pixel.
        in_channels: The features of a point.
        base_channels: The width of the lidar stream's first layers.
        encoder_name: As in :class:`CameraStream`.
        pretrained: As in :class:`CameraStream`.

    Raises:
        ValueError: As in :class:`CameraStream`. From ``forward``: image and points differ in size as well.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = LIDAR_CHANNELS,
        base_channels: int = 32,
        encoder_name: str = "resnet34",
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.camera = CameraEncoder(3, encoder_name, pretrained)
        self.encoder = LidarEncoder(in_channels, base_channels, self.camera.out_channels)
        self.decoder = LidarDecoder(base_channels)
        self.head = nn.Conv2d(base_channels, num_classes, 1)

    def forward(self, image: Tensor, lidar: Tensor) -> Tensor:
        """Logits ``(N, C, H, W)`` for ``(N, 3, H, W)`` and ``(N, in_channels, H, W)``."""
        _check_channels("image", image, 3)
        _check_channels("lidar", lidar, self.in_channels)
        if image.shape[-2:] != lidar.shape[-2:]:
            raise UserError(f"image and lidar must be of one size, got {tuple(image.shape)} and {tuple(lidar.shape)}")
        features = self.encoder(_padded(lidar), self.camera(_padded(image)))
        logits: Tensor = self.head(self.decoder(features))
        return logits[..., : lidar.shape[-2], : lidar.shape[-1]]


class CameraEncoder(nn.Module):
    """A ResNet of timm with features at strides 2, 4, 8 and 16.

    Args:
        in_channels: Channels of the input.
        name: timm's name.
        pretrained: Whether to start from ImageNet's weights.

    Raises:
        ValueError: The network is no ResNet with a single convolution in front.
    """

    def __init__(self, in_channels: int, name: str, pretrained: bool) -> None:
        super().__init__()
        net: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, num_classes=0)
        plain = isinstance(net, timm.models.ResNet) and isinstance(net.conv1, nn.Conv2d)
        if not plain:
            raise UserError(f"encoder_name must be a ResNet with one convolution in front, as resnet34, got {name!r}")
        net.conv1.stride = (1, 1)
        self.out_channels: tuple[int, ...] = tuple(info["num_chs"] for info in net.feature_info[1:])
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool)
        self.layer1: nn.Module = net.layer1
        self.layer2: nn.Module = net.layer2
        self.layer3 = nn.Sequential(net.layer3, nn.Dropout(0.2))
        self.layer4 = nn.Sequential(net.layer4, nn.Dropout(0.2))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Four features, from the largest to the smallest."""
        features, feature = [], self.stem(image)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            feature = layer(feature)
            features.append(feature)
        return features


class CameraDecoder(nn.Module):
    """From the smallest feature up: a convolution with the feature at that resolution, and bilinear upsampling.

    Args:
        channels: Of the four features, from the largest to the smallest.
        num_classes: Logits of a pixel.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        width = channels[0] // 4
        # the largest feature is merged by a 1x1 convolution
        self.merge = nn.ModuleList(
            conv(
                inputs + (0 if at == 3 else width),
                width,
                kernel_size=3 if at else 1,
                padding=1 if at else 0,
            )
            for at, inputs in enumerate(channels)
        )
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits at twice the largest feature's resolution."""
        *others, smallest = features
        *merges, first = self.merge
        merged = self.up(first(smallest))
        for merge, feature in zip(reversed(merges), reversed(others), strict=True):
            merged = self.up(merge(torch.cat([merged, feature], 1)))
        logits: Tensor = self.head(merged)
        return logits


class LidarEncoder(nn.Module):
    """SalsaNext's encoder, which can fuse a camera's features.

    Args:
        in_channels: The features of a point.
        base: The width of the first layers.
        camera_channels: Of the camera's four features; none without fusion.
    """

    def __init__(self, in_channels: int, base: int, camera_channels: Sequence[int] = ()) -> None:
        super().__init__()
        widths = (2 * base, 4 * base, 8 * base, 8 * base)
        self.context = nn.Sequential(
            ContextBlock(in_channels, base), ContextBlock(base, base), ContextBlock(base, base)
        )
        self.down = nn.ModuleList(
            DownBlock(inputs, outputs, dropout=at > 0)
            for at, (inputs, outputs) in enumerate(zip((base, *widths), widths, strict=False))
        )
        self.fuse = nn.ModuleList(
            ResidualFusion(width, camera) for width, camera in zip(widths, camera_channels, strict=False)
        ) or nn.ModuleList(nn.Identity() for _ in widths)
        self.bottom = DownBlock(widths[-1], widths[-1], pool=False)
        self.pyramid = Pyramid(widths[-1])

    def forward(self, lidar: Tensor, camera: Sequence[Tensor] = ()) -> list[Tensor]:
        """Five features, strides 1, 2, 4, 8 and 16; the last one is the pyramid's."""
        down, kept = self.context(lidar), []
        for at, (block, fuse) in enumerate(zip(self.down, self.fuse, strict=True)):
            down, before = block(down)
            kept.append(before)
            down = fuse(down, camera[at]) if camera else fuse(down)
        return [*kept, self.pyramid(self.bottom(down)[0])]


class LidarDecoder(nn.Module):
    """SalsaNext's decoder.

    Args:
        base: The width of the encoder's first layers, and of the result.
    """

    def __init__(self, base: int) -> None:
        super().__init__()
        self.up = nn.ModuleList(
            [
                UpBlock(8 * base, 8 * base, 4 * base),
                UpBlock(4 * base, 8 * base, 4 * base),
                UpBlock(4 * base, 4 * base, 2 * base),
                UpBlock(2 * base, 2 * base, base, dropout=False),
            ]
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """``(N, base, H, W)`` of the encoder's five features."""
        *kept, feature = features
        for block, skipped in zip(self.up, reversed(kept), strict=True):
            feature = block(feature, skipped)
        return feature


class ResidualFusion(nn.Module):
    """PMF's residual-based fusion: the lidar's feature plus a residual from both features.

    Args:
        lidar: Channels of the lidar's feature, and of the result.
        camera: Channels of the camera's feature.
    """

    def __init__(self, lidar: int, camera: int) -> None:
        super().__init__()
        self.fuse = conv(lidar + camera, lidar, 3, 1)
        self.attention = nn.Sequential(
            nn.Conv2d(lidar, lidar, 3, padding=1),
            nn.BatchNorm2d(lidar),
            nn.ReLU(inplace=True),
            nn.Conv2d(lidar, lidar, 3, padding=1),
            nn.BatchNorm2d(lidar),
            nn.Sigmoid(),
        )

    def forward(self, lidar: Tensor, camera: Tensor) -> Tensor:
        """The fused feature, of the shape of ``lidar``."""
        fused = self.fuse(torch.cat([lidar, camera], 1))
        added: Tensor = fused * self.attention(fused)
        return lidar + added


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: the mean of the feature, and convolutions of four dilations.

    Args:
        channels: Channels that come in and go out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.atrous = nn.ModuleList(
            [nn.Conv2d(channels, channels, 1)]
            + [nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate) for rate in (6, 12, 18)]
        )
        self.merge = nn.Conv2d(5 * channels, channels, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """A feature of the same shape."""
        views: list[Tensor] = [self.mean(feature).expand_as(feature), *(atrous(feature) for atrous in self.atrous)]
        merged: Tensor = self.merge(torch.cat(views, 1))
        return merged


def _padded(values: Tensor) -> Tensor:
    """The values with zeros added on the right and below, up to multiples of the largest stride."""
    height, width = values.shape[-2:]
    return F.pad(values, (0, -width % STRIDE, 0, -height % STRIDE))


def _check_channels(name: str, values: Tensor, channels: int) -> None:
    if values.ndim != 4 or values.shape[1] != channels:
        raise UserError(f"{name} must be (N, {channels}, H, W), got {tuple(values.shape)}")
