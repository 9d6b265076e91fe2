"""SNE-RoadSeg (Fan et al., ECCV 2020)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.models.duplex import IMAGE_CHANNELS, Add, check_x_channels, input_streams, upsampled

STRIDES = [2, 4, 8, 16, 32]


class SNERoadSeg(nn.Module):
    """Two ResNets fused in the encoder, and a decoder of densely connected skip connections.

    Source: Fan et al., "SNE-RoadSeg: Incorporating Surface Normal Information into Semantic Segmentation for Accurate
    Freespace Detection", ECCV 2020. After the stem and after each of the four layers the features of the X encoder are
    added to those of the RGB encoder. The RGB encoder continues with the sum, the X encoder with its own features. The
    decoder is a nested grid as in UNet++: the inputs of a node are all nodes before it at its level, and the upsampled
    node from the level below. With ``x_channels=None`` there is no X encoder, and the network is LIX's student:
    ``forward(image)``. With a number it is the teacher: ``forward(image, x)``, or ``forward(image, *x)`` for several
    modalities with that number of channels together.

    Encoders of ResNet-152 have 58.14 M parameters (student) and 116.28 M (teacher with depth), the numbers of LIX;
    all parameters of an encoder count, and it has no classifier. Two things differ from the released code. That code
    ends with batch normalisation and ReLU, which leaves no negative logits; this network ends with the last
    convolution. That code upsamples by 2, which needs sides divisible by 32. Here a node is upsampled bilinearly to the
    size of its skip connections, and the last one to the size of the image. This is the same for such sides, and works
    for any height and width.

    Layers to tap, the same in teacher and student:

    - ``fuse.0`` ... ``fuse.4``: the fused features of stem and layers, with the encoder's channels, strides 2, 4, 8,
      16, 32 (64, 256, 512, 1024, 2048 channels for ResNet-152);
    - ``decoder``: the last node, ``decoder_channels[0]`` channels, stride 2.

    Args:
        num_classes: C, the number of logits of a pixel.
        x_channels: The channels of X, such as 1 for disparity and 3 for normals; ``None`` for the student.
        encoder_name: A ResNet of timm.
        pretrained: Whether the encoders start from timm's ImageNet weights, which are downloaded. The weights of the
            first convolution are summed or repeated to fit ``x_channels``.
        decoder_channels: The widths of the nodes at strides 2, 4, 8 and 16; by default those of the encoder, as in the
            paper. Small widths, such as ``(16, 32, 64, 128)``, make a light network of a ResNet-18.

    Raises:
        ValueError: The encoder does not have five stages of strides 2 to 32, there are not four widths, or
            ``x_channels`` is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        x_channels: int | None = None,
        encoder_name: str = "resnet152",
        pretrained: bool = False,
        decoder_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_x_channels(x_channels)
        self.x_channels = x_channels
        self.encoder, channels = _stages(encoder_name, IMAGE_CHANNELS, pretrained)
        self.x_encoder = None if x_channels is None else _stages(encoder_name, x_channels, pretrained)[0]
        self.fuse = nn.ModuleList(nn.Identity() if x_channels is None else Add() for _ in STRIDES)
        widths = channels[:-1] if decoder_channels is None else list(decoder_channels)
        if len(widths) != len(STRIDES) - 1:
            raise UserError(f"decoder_channels must be four widths, for strides 2, 4, 8 and 16, got {widths}")
        self.decoder = NestedDecoder(channels, widths)
        self.classifier = nn.Conv2d(widths[0], num_classes, 3, padding=1)

    def forward(self, image: Tensor, *x: Tensor) -> Tensor:
        """Logits ``(N, C, H, W)`` for ``(N, 3, H, W)`` and X ``(N, c, H, W)``."""
        streams = input_streams(self.x_channels, image, x)
        encoders = [self.encoder] if self.x_encoder is None else [self.encoder, self.x_encoder]
        features = []
        for stage, fuse in enumerate(self.fuse):
            streams = [encoder[stage](stream) for encoder, stream in zip(encoders, streams, strict=True)]
            streams[0] = fuse(*streams)
            features.append(streams[0])
        logits: Tensor = self.classifier(upsampled(self.decoder(features), image))
        return logits


class NestedDecoder(nn.Module):
    """A triangle of nodes over the encoder's features; those of one level are densely connected.

    Args:
        skip_channels: Channels of the encoder's features, the largest feature first.
        channels: Widths of the nodes of each level; the level of the smallest feature has no nodes.
    """

    def __init__(self, skip_channels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        levels = len(channels)
        self.columns = nn.ModuleList()
        for column in range(levels):
            below = [*skip_channels[1:]] if column == 0 else [*channels[1:]]
            self.columns.append(
                nn.ModuleList(
                    Node(skip_channels[level] + column * channels[level], below[level], channels[level])
                    for level in range(levels - column)
                )
            )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The last node of the first level, in the size of the first feature."""
        levels = [[feature] for feature in features]
        for column, nodes in enumerate(self.columns):
            for level, node in enumerate(nodes.children()):
                levels[level].append(node(levels[level], levels[level + 1][column]))
        return levels[0][-1]


class Node(nn.Module):
    """A feature fusion block: two convolutions of the earlier nodes of the level and of the level below.

    Args:
        skip_channels: Channels of the earlier nodes of the level together.
        below_channels: Channels of the node of the level below.
        channels: Channels of the output.
    """

    def __init__(self, skip_channels: int, below_channels: int, channels: int) -> None:
        super().__init__()
        self.up = _conv_bn_relu(below_channels, channels)
        self.fuse = nn.Sequential(_conv_bn_relu(skip_channels + channels, channels), _conv_bn_relu(channels, channels))

    def forward(self, skips: Sequence[Tensor], below: Tensor) -> Tensor:
        """``(N, channels, H, W)`` for earlier nodes ``(N, *, H, W)`` and a smaller one."""
        fused: Tensor = self.fuse(torch.cat([*skips, self.up(upsampled(below, skips[0]))], 1))
        return fused


def _stages(name: str, in_channels: int, pretrained: bool) -> tuple[nn.ModuleList, list[int]]:
    """A timm network as five stages, which end at the features of timm, and the channels of these features."""
    if not timm.is_model(name):
        raise UserError(f"encoder_name must be a ResNet of timm, as resnet18; there is no {name!r}")
    network: Any = timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=in_channels)
    strides = network.feature_info.reduction()
    if strides != STRIDES:
        raise UserError(f"encoder_name must be a ResNet, with features at strides {STRIDES}; {name!r} has {strides}")
    # timm flattens "stages.0" to a child "stages_0"
    ends = [end.replace(".", "_") for end in network.feature_info.module_name()]
    stages: list[OrderedDict[str, nn.Module]] = [OrderedDict()]
    for child_name, child in network.named_children():
        stages[-1][child_name] = child
        if child_name in ends[:-1]:
            stages.append(OrderedDict())
    return nn.ModuleList(map(nn.Sequential, stages)), network.feature_info.channels()


def _conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
