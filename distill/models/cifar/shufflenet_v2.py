"""ShuffleNet V2 for small images (Ma et al., ECCV 2018)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from distill.models.cifar.network import CifarNetwork, ConvBN, Stage

WIDTHS = (24, 116, 232, 464)
UNITS = (4, 8, 4)
FINAL_WIDTH = 1024


class ShuffleNetV2(CifarNetwork):
    """Three stages of 4, 8 and 4 units that leave half their channels alone: 1.36 M parameters at 100 classes.

    Source: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018, Table 5,
    size 1x, in the form of the distillation literature: a 1x1 stem without pooling.

    Layers to tap:

    - ``stem``: 24 channels, stride 1, after ReLU;
    - ``stage1``, ``stage2``, ``stage3``: 116, 232 and 464 channels, strides 2, 4 and 8, after ReLU;
    - ``final``: 1024 channels, stride 8, after ReLU;
    - ``stem.preact``, ``stage1.preact``, ..., ``final.preact``: the same before ReLU. Half of a stage's channels come
      from the unit before, and no ReLU changes them any more;
    - ``pool``: the pooled ``final``, ``(N, 1024)``; ``fc``: the logits.

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
        stem, final = Stage(ConvBN(in_channels, WIDTHS[0], 1)), Stage(ConvBN(WIDTHS[-1], FINAL_WIDTH, 1))
        super().__init__(in_channels, stem, stages, FINAL_WIDTH, num_classes, final)


class ShuffleUnit(nn.Module):
    """The paper's Fig. 3 (c).

    The paper's last ReLU is on one branch, before the shuffle. Here it is the stage's, behind it and on both: the other
    branch is a copy of what a ReLU returned, so the result is the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            ConvBN(half, half, 1), nn.ReLU(), ConvBN(half, half, groups=half), ConvBN(half, half, 1)
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """The kept half and the new one, shuffled, before activation."""
        kept, changed = x.chunk(2, 1)
        shuffled: Tensor = self.shuffle(torch.cat([kept, self.branch(changed)], 1))
        return shuffled


class ShuffleDownUnit(nn.Module):
    """The paper's Fig. 3 (d), which halves the size; the last ReLU of both branches is the stage's."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.shortcut = nn.Sequential(
            ConvBN(in_channels, in_channels, stride=2, groups=in_channels), ConvBN(in_channels, half, 1)
        )
        self.branch = nn.Sequential(
            ConvBN(in_channels, half, 1), nn.ReLU(), ConvBN(half, half, stride=2, groups=half), ConvBN(half, half, 1)
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Both halves, shuffled, before activation."""
        shuffled: Tensor = self.shuffle(torch.cat([self.shortcut(x), self.branch(x)], 1))
        return shuffled
