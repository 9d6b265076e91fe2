"""A U-Net for volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.checks import check_at_least
from distill.errors import UserError

SLOPE = 0.01


class UNet3d(nn.Module):
    """A U-Net for volumes, such as MRI; several modalities are several inputs, which are concatenated.

    Source: Ronneberger et al., U-Net, MICCAI 2015, in three dimensions as in nnU-Net (Isensee et al., Nature Methods
    2021): two 3x3x3 convolutions a stage, instance normalisation, leaky ReLU, strides instead of pooling, transposed
    convolutions on the way up. nnU-Net has 32 channels first, twice as many after each stride, and at most 320.

    Layers to tap, where S is the number of stages:

    - ``encoder.0`` ... ``encoder.<S - 1>``: the stages on the way down, strides 1, 2, 4, ..., with ``channels``;
    - ``decoder.0`` ... ``decoder.<S - 2>``: the stages on the way up, from the smallest; the last one has stride 1 and
      ``channels[0]`` channels.

    Args:
        in_channels: The number of channels of all inputs together: 4 for four sequences of MRI.
        num_classes: C, the number of logits of a voxel.
        channels: The channels of the stages, at least two.

    Raises:
        ValueError: A number is below 1, or there are fewer than two stages. From ``forward``: the inputs have another
            number of channels, or a size that the strides do not divide.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        check_at_least(1, in_channels=in_channels, num_classes=num_classes)
        if len(channels) < 2:
            raise UserError(f"channels must be two or more numbers, one for each stage, got {list(channels)}")
        for width in channels:
            check_at_least(1, channels=width)
        self.in_channels = in_channels
        self.divisor = 2 ** (len(channels) - 1)
        widths = (in_channels, *channels)
        self.encoder = nn.ModuleList(
            _stage(before, width, stride=2 if number else 1)
            for number, (before, width) in enumerate(zip(widths, channels, strict=False))
        )
        upwards = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.upsampling = nn.ModuleList(nn.ConvTranspose3d(below, width, 2, stride=2) for below, width in upwards)
        self.decoder = nn.ModuleList(_stage(2 * width, width) for _, width in upwards)
        self.classifier = nn.Conv3d(channels[0], num_classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, SLOPE, nonlinearity="leaky_relu")

    def forward(self, *volumes: Tensor) -> Tensor:
        """Logits ``(N, C, D, H, W)`` for volumes ``(N, c, D, H, W)``, whose channels are concatenated."""
        feature = torch.cat(volumes, 1)
        if feature.ndim != 5 or feature.shape[1] != self.in_channels:
            raise UserError(
                f"UNet3d(in_channels={self.in_channels}) takes volumes (N, c, D, H, W) of {self.in_channels} channels "
                f"together, got {', '.join(str(tuple(volume.shape)) for volume in volumes)}"
            )
        sizes = feature.shape[2:]
        if any(size % self.divisor for size in sizes) or sizes.numel() == self.divisor**3:
            raise UserError(
                f"UNet3d takes volumes whose sizes are multiples of {self.divisor}, one of them larger, got "
                f"{tuple(sizes)}: pad them, or give fewer channels"
            )
        skips = []
        for stage in self.encoder:
            feature = stage(feature)
            skips.append(feature)
        for upsampling, stage, skip in zip(self.upsampling, self.decoder, skips[-2::-1], strict=True):
            feature = stage(torch.cat([upsampling(feature), skip], 1))
        logits: Tensor = self.classifier(feature)
        return logits


def _stage(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*_convolution(in_channels, channels, stride), *_convolution(channels, channels, 1))


def _convolution(in_channels: int, channels: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv3d(in_channels, channels, 3, stride, padding=1, bias=False),
        nn.InstanceNorm3d(channels, affine=True),
        nn.LeakyReLU(SLOPE, inplace=True),
    )
