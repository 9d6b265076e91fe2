"""MobileNetV2 for small images (Sandler et al., CVPR 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from distill.models.cifar.network import CifarNetwork, ConvBN, Stage

STEM_WIDTH = 16
FINAL_WIDTH = 1280
EXPANSION = 6


class MobileNetV2(CifarNetwork):
    """Inverted residuals with linear bottlenecks at half the width: 0.81 M parameters at 100 classes.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, Table 2 with width
    multiplier 0.5, in the form of the distillation literature: the second group of bottlenecks keeps its size, so that
    the whole has stride 16 and not 32; ReLU replaces ReLU6; the first bottleneck has a 1x1 convolution before the
    depthwise one as well. The stem does have stride 2 in that form. The last convolution keeps its 1280 channels.

    Layers to tap. The stages end in linear bottlenecks, so no activation follows and none has a ``preact``:

    - ``stem``: 16 channels, stride 2, after ReLU;
    - ``stage1``, ``stage2``, ``stage3``, ``stage4``: 12, 16, 48 and 160 channels, strides 2, 4, 8 and 16;
    - ``final``: 1280 channels, stride 16, after ReLU;
    - ``stem.preact``, ``final.preact``: the same before ReLU;
    - ``pool``: the pooled ``final``, ``(N, 1280)``; ``fc``: the logits.

    Args:
        num_classes: C, the number of logits.
        in_channels: The channels of the image.

    Raises:
        ValueError: From ``forward``: the input has other channels.
    """

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        stages = [
            nn.Sequential(Bottleneck(STEM_WIDTH, 8, expansion=1), *_group(8, 12, 2)),
            _group(12, 16, 3, stride=2),
            nn.Sequential(*_group(16, 32, 4, stride=2), *_group(32, 48, 3)),
            nn.Sequential(*_group(48, 80, 3, stride=2), *_group(80, 160, 1)),
        ]
        stem, final = Stage(ConvBN(in_channels, STEM_WIDTH, stride=2)), Stage(ConvBN(160, FINAL_WIDTH, 1))
        super().__init__(in_channels, stem, stages, FINAL_WIDTH, num_classes, final)


class Bottleneck(nn.Module):
    """Expands the channels, convolves each on its own, and projects linearly; with a shortcut where shapes are equal.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the depthwise convolution.
        expansion: How many times the input's channels are between the 1x1 convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, expansion: int = EXPANSION) -> None:
        super().__init__()
        middle = expansion * in_channels
        self.residual = nn.Sequential(
            ConvBN(in_channels, middle, 1),
            nn.ReLU(),
            ConvBN(middle, middle, stride=stride, groups=middle),
            nn.ReLU(),
            ConvBN(middle, out_channels, 1),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """The sum, or the projection where there is no shortcut; neither is activated."""
        projected: Tensor = self.residual(x)
        return x + projected if self.has_shortcut else projected


def _group(in_channels: int, out_channels: int, bottlenecks: int, stride: int = 1) -> nn.Sequential:
    """A row of the paper's Table 2: the first bottleneck has the stride and changes the channels."""
    return nn.Sequential(
        Bottleneck(in_channels, out_channels, stride),
        *[Bottleneck(out_channels, out_channels) for _ in range(bottlenecks - 1)],
    )
