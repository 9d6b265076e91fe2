"""ResNets for small images (He et al., CVPR 2016)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from distill.errors import UserError
from distill.models.cifar.network import CifarNetwork, ConvBN, Stage

WIDTHS = (16, 16, 32, 64)
WIDTHS_X4 = (32, 64, 128, 256)


class CifarResNet(CifarNetwork):
    """A stem and three stages of basic blocks.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Sec. 4.2, with 1x1 convolutions for
    the shortcuts that change channels (the paper pads with zeros there), as the distillation literature has it. A name
    such as 32x4 says depth and width: the stages are four times as wide, the stem twice.

    Layers to tap, with the channels of ``widths``:

    - ``stem``, ``stage1``: stride 1, after ReLU;
    - ``stage2``, ``stage3``: strides 2 and 4, after ReLU;
    - ``stem.preact``, ``stage1.preact``, ...: the same before ReLU;
    - ``pool``: the pooled ``stage3``, ``(N, widths[3])``; ``fc``: the logits.

    Args:
        depth: Counts convolutions on the main path and the classifier: 6 n + 2 for n blocks a stage.
        widths: The channels of the stem and the three stages.
        num_classes: C, the number of logits.
        in_channels: The channels of the image.

    Raises:
        ValueError: No network has this depth. From ``forward``: the input has other channels.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int, in_channels: int = 3) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise UserError(f"depth must be 6 n + 2 with n blocks a stage, such as 8, 20 or 56, got {depth}")
        stages = [
            Stage(
                BasicBlock(before, width, stride),
                *[BasicBlock(width, width) for _ in range(blocks - 1)],
            )
            for (before, width), stride in zip(pairwise(widths), (1, 2, 2), strict=True)
        ]
        super().__init__(in_channels, Stage(ConvBN(in_channels, widths[0])), stages, widths[-1], num_classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the ReLU after the sum is the stage's."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ConvBN(in_channels, out_channels, stride=stride), nn.ReLU(), ConvBN(out_channels, out_channels)
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else ConvBN(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, before activation."""
        summed: Tensor = self.residual(x) + self.shortcut(x)
        return summed


class ResNet8x4(CifarResNet):
    """``CifarResNet`` of one block a stage with 64, 128 and 256 channels: 1.23 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(8, WIDTHS_X4, num_classes, in_channels)


class ResNet32x4(CifarResNet):
    """``CifarResNet`` of five blocks a stage with 64, 128 and 256 channels: 7.43 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(32, WIDTHS_X4, num_classes, in_channels)


class ResNet20(CifarResNet):
    """``CifarResNet`` of three blocks a stage with 16, 32 and 64 channels: 0.28 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(20, WIDTHS, num_classes, in_channels)


class ResNet56(CifarResNet):
    """``CifarResNet`` of nine blocks a stage with 16, 32 and 64 channels: 0.86 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(56, WIDTHS, num_classes, in_channels)


class ResNet110(CifarResNet):
    """``CifarResNet`` of 18 blocks a stage with 16, 32 and 64 channels: 1.74 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(110, WIDTHS, num_classes, in_channels)
