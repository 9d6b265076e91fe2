"""ShuffleNet for small images (Zhang et al., CVPR 2018)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from distill.models.cifar.network import CifarNetwork, ConvBN, Stage

WIDTHS = (24, 240, 480, 960)
UNITS = (4, 8, 4)
GROUPS = 3


class ShuffleNetV1(CifarNetwork):
    """Three stages of 4, 8 and 4 units whose 1x1 convolutions have three groups: 0.95 M parameters at 100 classes.

    Source: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR
    2018, Table 1, in the form of the distillation literature: a 1x1 stem without pooling; ReLU after the depthwise
    convolution as well, where the paper has none; and a unit that halves the size has a quarter of the channels that it
    adds, not of those that it returns, in its middle.

    Layers to tap:

    - ``stem``: 24 channels, stride 1, after ReLU;
    - ``stage1``, ``stage2``, ``stage3``: 240, 480 and 960 channels, strides 2, 4 and 8, after ReLU;
    - ``stem.preact``, ``stage1.preact``, ...: the same before ReLU;
    - ``pool``: the pooled ``stage3``, ``(N, 960)``; ``fc``: the logits.

    Args:
        num_classes: C, the number of logits.
        in_channels: The channels of the image.

    Raises:
        ValueError: From ``forward``: the input has other channels.
    """

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        stages = [
            Stage(ShuffleDownUnit(before, width), *[ShuffleUnit(width) for _ in range(units - 1)])
            for (before, width), units in zip(pairwise(WIDTHS), UNITS, strict=True)
        ]
        super().__init__(in_channels, Stage(ConvBN(in_channels, WIDTHS[0], 1)), stages, WIDTHS[-1], num_classes)


class ShuffleUnit(nn.Module):
    """The paper's Fig. 2 (b); the ReLU after the sum is the stage's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = _residual(channels, channels, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, before activation."""
        summed: Tensor = self.residual(x) + x
        return summed


class ShuffleDownUnit(nn.Module):
    """The paper's Fig. 2 (c), which halves the size; the ReLU after the concatenation is the stage's."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = _residual(in_channels, out_channels - in_channels, stride=2)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """New channels before pooled ones, before activation."""
        return torch.cat([self.residual(x), self.shortcut(x)], 1)


def _residual(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    middle = out_channels // 4
    # the stem's few channels are not grouped (Sec. 3.2)
    groups = 1 if in_channels == WIDTHS[0] else GROUPS
    return nn.Sequential(
        ConvBN(in_channels, middle, 1, groups=groups),
        nn.ReLU(),
        nn.ChannelShuffle(groups),
        ConvBN(middle, middle, stride=stride, groups=middle),
        nn.ReLU(),
        ConvBN(middle, out_channels, 1, groups=GROUPS),
    )
