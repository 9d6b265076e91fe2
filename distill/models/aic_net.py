"""Anisotropic convolutional network (AIC-Net), for images instead of volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.models.duplex import upsampled

KERNELS = (3, 5, 7)


class AICNet(nn.Module):
    """Segmentation by convolutions along one axis at a time; each position chooses their length.

    Source: Li et al., "Anisotropic convolutional networks for 3D semantic scene completion", CVPR 2020. NTDH, Sec.
    IV-B, uses this network for NYU Depth V2 without its fusion of image and depth, with 0.17 M parameters (Table I).
    The paper's network is for volumes, with three axes. This is its counterpart for images, with two axes: a stem to
    stride 4, two anisotropic modules at stride 4, two at stride 8, and one convolution of the outputs of all four. With
    40 classes it has 0.170 M parameters, for three channels and for one.

    The input may have any height and width.

    Layers to tap: ``modules_4.0``, ``modules_4.1``, stride 4, and ``modules_8.0``, ``modules_8.1``, stride 8, all of 64
    channels; ``merge``, stride 4, 32 channels.

    Args:
        num_classes: C, the number of logits of a pixel.
        in_channels: 3 for images, 1 for depth.
        width: Channels of a module.

    Raises:
        ValueError: From ``forward``: the input has other channels.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.in_channels = in_channels
        half = width // 2
        self.stem = nn.Sequential(_conv(in_channels, half, 3, stride=2), _conv(half, width, 3, stride=2))
        self.modules_4 = nn.ModuleList(AnisotropicModule(width) for _ in range(2))
        self.modules_8 = nn.ModuleList(AnisotropicModule(width) for _ in range(2))
        self.pool = nn.AvgPool2d(2, ceil_mode=True)
        self.merge = _conv(4 * width, half, 1)
        self.head = nn.Conv2d(half, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, C, H, W)`` for ``(N, in_channels, H, W)``."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(f"input must be (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        feature, levels = self.stem(x), []
        for module in self.modules_4:
            levels.append(feature := module(feature))
        feature = self.pool(feature)
        for module in self.modules_8:
            feature = module(feature)
            levels.append(upsampled(feature, levels[0]))
        return upsampled(self.head(self.merge(torch.cat(levels, 1))), x)


class AnisotropicModule(nn.Module):
    """A bottleneck with an anisotropic convolution along the columns and one along the rows, added to its input.

    Args:
        channels: Channels that come in and go out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.residual = nn.Sequential(
            _conv(channels, half, 1),
            AnisotropicConv(half, axis=2),
            AnisotropicConv(half, axis=3),
            nn.Conv2d(half, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """A feature of the same shape."""
        added: Tensor = self.relu(x + self.residual(x))
        return added


class AnisotropicConv(nn.Module):
    """Convolutions of three lengths along one axis, summed with weights that each position chooses by a softmax.

    Args:
        channels: Channels that come in and go out.
        axis: 2 along a column, 3 along a row.
    """

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        sizes = [(kernel, 1) if axis == 2 else (1, kernel) for kernel in KERNELS]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, size, padding=(size[0] // 2, size[1] // 2), bias=False) for size in sizes
        )
        self.choice = nn.Conv2d(channels, len(KERNELS), 1)
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """A feature of the same shape."""
        weights = self.choice(x).softmax(1).split(1, 1)
        total = sum(weight * conv(x) for weight, conv in zip(weights, self.convs, strict=True))
        normed: Tensor = self.norm(total)
        return normed


def _conv(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
