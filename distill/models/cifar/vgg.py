"""VGGs for small images (Simonyan and Zisserman, ICLR 2015)."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from distill.models.cifar.network import CifarNetwork, ConvBN, Stage

Widths = tuple[int, int, int, int, int]

WIDTHS: Widths = (64, 128, 256, 512, 512)
POOLED_BEFORE = (False, True, True, True, False)


class CifarVGG(CifarNetwork):
    """Five groups of 3x3 convolutions with batch normalisation, pooling between them, and one linear layer.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, in
    the form of the distillation literature: the last two groups work at the same size, their output is averaged, and
    two of the three linear layers are left out. VGG13 is configuration B; VGG8 has half its convolutions. The released
    code pools once more where an image is 64 high; here the strides do not depend on the size.

    Layers to tap, with the channels of ``widths``:

    - ``stem``: the first group, stride 1, after ReLU;
    - ``stage1``, ``stage2``, ``stage3``: strides 2, 4 and 8, after ReLU;
    - ``stage4``: stride 8, after ReLU;
    - ``stem.preact``, ``stage1.preact``, ...: the same before ReLU;
    - ``pool``: the pooled ``stage4``, ``(N, widths[4])``; ``fc``: the logits.

    Args:
        convolutions: How many there are in a group.
        widths: The channels of the groups.
        num_classes: C, the number of logits.
        in_channels: The channels of the image.

    Raises:
        ValueError: From ``forward``: the input has other channels.
    """

    def __init__(self, convolutions: int, widths: Widths, num_classes: int, in_channels: int = 3) -> None:
        stem, *stages = [
            _group(before, width, convolutions, pooled)
            for (before, width), pooled in zip(pairwise((in_channels, *widths)), POOLED_BEFORE, strict=True)
        ]
        super().__init__(in_channels, stem, stages, widths[-1], num_classes)


def _group(in_channels: int, out_channels: int, convolutions: int, pooled: bool) -> Stage:
    # the normalisation removes what a bias adds; it is here because published parameter counts include it
    first, *others = [
        ConvBN(before, out_channels, bias=True) for before in (in_channels, *[out_channels] * (convolutions - 1))
    ]
    return Stage(nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), first) if pooled else first, *others)


class VGG8(CifarVGG):
    """``CifarVGG`` of one convolution a group, 64 to 512 channels: 3.97 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(1, WIDTHS, num_classes, in_channels)


class VGG13(CifarVGG):
    """``CifarVGG`` of two convolutions a group, 64 to 512 channels: 9.46 M parameters at 100 classes."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(2, WIDTHS, num_classes, in_channels)
