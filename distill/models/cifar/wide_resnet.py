"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from distill.errors import UserError
from distill.models.cifar.network import CifarNetwork


class WideResNet(CifarNetwork):
    """A stem and three stages of blocks that activate before they convolve.

    Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, Sec. 2 and Table 1, blocks B(3, 3) without
    dropout. WRN-40-2 has depth 40 and twice the width of a ResNet; its class here is ``WRN40x2``.

    Layers to tap, with k for ``widen_factor``:

    - ``stem``: 16 channels, stride 1, a convolution alone;
    - ``stage1``, ``stage2``, ``stage3``: 16 k, 32 k and 64 k channels, strides 1, 2 and 4: the sums of residuals, which
      nothing has normalised or activated yet;
    - ``final``: ``stage3`` normalised and after ReLU; ``final.0`` is the same before ReLU. Of the first two stages
      these are ``stage2.0.activation`` and ``stage3.0.activation``, with which the next stage begins;
    - ``pool``: the pooled ``final``, ``(N, 64 k)``; ``fc``: the logits.

    Args:
        depth: Counts the convolutions, with those of the three shortcuts: 6 n + 4 for n blocks a stage.
        widen_factor: k.
        num_classes: C, the number of logits.
        in_channels: The channels of the image.

    Raises:
        ValueError: No network has this depth. From ``forward``: the input has other channels.
    """

    def __init__(self, depth: int, widen_factor: int, num_classes: int, in_channels: int = 3) -> None:
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise UserError(f"depth must be 6 n + 4 with n blocks a stage, such as 16, 28 or 40, got {depth}")
        widths = (16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor)
        stages = [
            nn.Sequential(
                PreactivationBlock(before, width, stride),
                *[PreactivationBlock(width, width) for _ in range(blocks - 1)],
            )
            for (before, width), stride in zip(pairwise(widths), (1, 2, 2), strict=True)
        ]
        stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        super().__init__(in_channels, stem, stages, widths[-1], num_classes, final=_activation(widths[-1]))


class PreactivationBlock(nn.Module):
    """Batch normalisation and ReLU before each of two 3x3 convolutions, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.activation = _activation(in_channels)
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            *_activation(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The sum; a shortcut that convolves starts from the activated input, the identity from the input itself."""
        activated = self.activation(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        summed: Tensor = self.residual(activated) + shortcut
        return summed


def _activation(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


class WRN16x2(WideResNet):
    """WRN-16-2, a ``WideResNet`` of two blocks a stage with 32, 64, 128 channels: 0.70 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(16, 2, num_classes, in_channels)


class WRN40x2(WideResNet):
    """WRN-40-2, a ``WideResNet`` of six blocks a stage with 32, 64, 128 channels: 2.26 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(40, 2, num_classes, in_channels)
