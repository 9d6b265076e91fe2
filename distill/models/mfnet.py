"""MFNet (Ha et al., IROS 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.models.duplex import IMAGE_CHANNELS, check_x_channels, input_streams, upsampled

CHANNELS = (16, 48, 48, 96, 96)
X_CHANNELS = (16, 16, 16, 36, 36)
SLOPE = 0.2


class MFNet(nn.Module):
    """Two small encoders that meet in the decoder only (late fusion).

    Source: Ha et al., "MFNet: Towards Real-Time Semantic Segmentation for Autonomous Vehicles with Multi-Spectral
    Scenes", IROS 2017. Each encoder has five stages; the last two are mini-inception blocks, half of whose channels see
    a dilated neighbourhood. The RGB encoder has 16, 48, 48, 96, 96 channels, the X encoder 16, 16, 16, 36, 36. The
    decoder upsamples the concatenated features of the last stage and adds the concatenated ones of the stage before,
    three times. With ``x_channels=None`` there is no X encoder, and the network is LIX's student: ``forward(image)``.
    With a number it is the teacher: ``forward(image, x)``, or several modalities ``forward(image, *x)`` with this many
    channels together.

    Counted are the convolutions with their biases and the batch normalisations of the five stages: 528,096 parameters
    in the RGB encoder and 601,848 in both for one channel of X. LIX prints 0.52 M and 0.60 M: these numbers with all
    digits after the second cut off. (Rounded, the first would be 0.53 M; it is 1.6 % above 0.52 M.)

    One thing differs from the released code. It ends in batch normalisation and a rectifier, which bends negative
    logits; here the last convolution is the end. Any height and width will do: pooling keeps the last odd row and
    column, and features are upsampled bilinearly to the size of what they are added to, at the end to the image's.

    Layers to tap, the same in teacher and student. The first stage (stride 1) feeds nothing but the second and is not
    fused, so numbers begin at 1:

    - ``fuse.1`` ... ``fuse.4``: the features of stages 2 to 5, RGB before X, strides 2, 4, 8, 16, with 64, 64, 132, 132
      channels in the teacher and 48, 48, 96, 96 in the student;
    - ``decoder``: the last feature, stride 2, with 32 channels in the teacher and 16 in the student.

    Args:
        num_classes: C, the number of logits of a pixel.
        x_channels: The channels of X, such as 1 for disparity and 3 for normals; ``None`` for the student.

    Raises:
        ValueError: ``x_channels`` is not positive.
    """

    def __init__(self, num_classes: int, x_channels: int | None = None) -> None:
        super().__init__()
        check_x_channels(x_channels)
        self.x_channels = x_channels
        self.encoder = MFNetEncoder(IMAGE_CHANNELS, CHANNELS)
        self.x_encoder = None if x_channels is None else MFNetEncoder(x_channels, X_CHANNELS)
        self.fuse = nn.ModuleDict(
            {str(stage): nn.Identity() if x_channels is None else Concatenate() for stage in range(1, len(CHANNELS))}
        )
        widths = CHANNELS if x_channels is None else [sum(pair) for pair in zip(CHANNELS, X_CHANNELS, strict=True)]
        self.decoder = MFNetDecoder(widths)
        self.classifier = nn.Conv2d(widths[0], num_classes, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE, nonlinearity="leaky_relu")

    def forward(self, image: Tensor, *x: Tensor) -> Tensor:
        """Logits ``(N, C, H, W)`` for ``(N, 3, H, W)`` and X ``(N, c, H, W)``."""
        streams = input_streams(self.x_channels, image, x)
        pyramids = [self.encoder(streams[0])]
        if self.x_encoder is not None:
            pyramids.append(self.x_encoder(streams[1]))
        features = [fuse(*stage) for fuse, *stage in zip(self.fuse.values(), *pyramids, strict=True)]
        logits: Tensor = self.classifier(upsampled(self.decoder(features), image))
        return logits


class MFNetEncoder(nn.Module):
    """Five stages with max pooling between them, which halves height and width.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the five stages, those of the last two even.
    """

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth, fifth = channels
        self.stages = nn.ModuleList(
            [
                ConvBNLeakyReLU(in_channels, first),
                nn.Sequential(ConvBNLeakyReLU(first, second), ConvBNLeakyReLU(second, second)),
                nn.Sequential(ConvBNLeakyReLU(second, third), ConvBNLeakyReLU(third, third)),
                nn.Sequential(*[MiniInception(before, fourth) for before in (third, fourth, fourth)]),
                nn.Sequential(*[MiniInception(before, fifth) for before in (fourth, fifth, fifth)]),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of stages 2 to 5, at strides 2, 4, 8 and 16."""
        first, *later = self.stages
        features = [first(x)]
        for stage in later:
            features.append(stage(F.max_pool2d(features[-1], 2, ceil_mode=True)))
        return features[1:]


class MFNetDecoder(nn.Module):
    """Upsamples, adds the shortcut and convolves, once for each stage between the last and the first.

    Args:
        channels: Channels of the five stages after fusion, equal for the last two.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth, _ = channels
        self.blocks = nn.ModuleList(
            [ConvBNLeakyReLU(fourth, third), ConvBNLeakyReLU(third, second), ConvBNLeakyReLU(second, first)]
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The last feature, in the size of the first that is given."""
        *shortcuts, feature = features
        for block, shortcut in zip(self.blocks, reversed(shortcuts), strict=True):
            feature = block(upsampled(feature, shortcut) + shortcut)
        return feature


class ConvBNLeakyReLU(nn.Sequential):
    """A 3x3 convolution, batch normalisation and leaky ReLU, at the size of the input."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class MiniInception(nn.Module):
    """Half the output channels from a plain 3x3 convolution, half from one that is dilated by 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.plain = ConvBNLeakyReLU(in_channels, out_channels // 2)
        self.dilated = ConvBNLeakyReLU(in_channels, out_channels // 2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, out_channels, H, W)``, the plain half first."""
        return torch.cat([self.plain(x), self.dilated(x)], 1)


class Concatenate(nn.Module):
    """The channels of two streams behind one another."""

    def forward(self, image: Tensor, x: Tensor) -> Tensor:
        """The fused feature, with the channels of both."""
        return torch.cat([image, x], 1)
