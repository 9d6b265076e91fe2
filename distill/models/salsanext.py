"""The encoder-decoder for lidar of SalsaNext (Cortinhal et al., ISVC 2020), in the form of PMF's lidar stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DROPOUT = 0.2


def conv(inputs: int, outputs: int, kernel_size: int, padding: int = 0, dilation: int = 1) -> nn.Sequential:
    """Convolution, leaky ReLU and then batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, padding=padding, dilation=dilation),
        nn.LeakyReLU(inplace=True),
        nn.BatchNorm2d(outputs),
    )


class ContextBlock(nn.Module):
    """Convolutions with a wide receptive field at the input's resolution, added to a 1x1 convolution of the input.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.LeakyReLU())
        self.context = nn.Sequential(conv(outputs, outputs, 3, 1), conv(outputs, outputs, 3, 2, dilation=2))

    def forward(self, feature: Tensor) -> Tensor:
        """``(N, outputs, H, W)`` of ``(N, inputs, H, W)``."""
        shortcut = self.shortcut(feature)
        widened: Tensor = shortcut + self.context(shortcut)
        return widened


class Receptive(nn.Module):
    """Three consecutive convolutions with growing receptive fields, and a 1x1 convolution of all three outputs.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.near = conv(inputs, outputs, 3, 1)
        self.wide = conv(outputs, outputs, 3, 2, dilation=2)
        self.wider = conv(outputs, outputs, 2, 1, dilation=2)
        self.merge = conv(3 * outputs, outputs, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """``(N, outputs, H, W)`` of ``(N, inputs, H, W)``."""
        near = self.near(feature)
        wide = self.wide(near)
        merged: Tensor = self.merge(torch.cat([near, wide, self.wider(wide)], 1))
        return merged


class DownBlock(nn.Module):
    """A residual block, and pooling of its output to half the resolution.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        dropout: Whether whole channels are dropped before the pooling.
        pool: Whether the output is pooled.
    """

    def __init__(self, inputs: int, outputs: int, *, dropout: bool = True, pool: bool = True) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.LeakyReLU(inplace=True))
        self.residual = Receptive(inputs, outputs)
        self.down = nn.Sequential(
            nn.Dropout2d(DROPOUT) if dropout else nn.Identity(),
            nn.AvgPool2d(3, stride=2, padding=1) if pool else nn.Identity(),
        )

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled output, ``(N, outputs, H / 2, W / 2)``, and the output for the decoder, ``(N, outputs, H, W)``."""
        kept = self.shortcut(feature) + self.residual(feature)
        return self.down(kept), kept


class UpBlock(nn.Module):
    """Pixel shuffling to twice the resolution, then convolutions with the encoder's feature.

    Args:
        inputs: Channels that come in; the shuffling leaves a quarter of them.
        skipped: Channels of the encoder's feature.
        outputs: Channels that go out.
        dropout: Whether whole channels are dropped.
    """

    def __init__(self, inputs: int, skipped: int, outputs: int, *, dropout: bool = True) -> None:
        super().__init__()
        rate = DROPOUT if dropout else 0.0
        self.up = nn.Sequential(nn.PixelShuffle(2), nn.Dropout2d(rate))
        self.drop = nn.Dropout2d(rate)
        self.merge = nn.Sequential(Receptive(inputs // 4 + skipped, outputs), nn.Dropout2d(rate))

    def forward(self, feature: Tensor, skipped: Tensor) -> Tensor:
        """``(N, outputs, 2 H, 2 W)`` of ``(N, inputs, H, W)`` and ``(N, skipped, 2 H, 2 W)``."""
        merged: Tensor = self.merge(self.drop(torch.cat([self.up(feature), skipped], 1)))
        return merged
