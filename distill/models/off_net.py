"""OFF-Net (Min et al., ICRA 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from distill.checks import check_option
from distill.errors import UserError
from distill.models.duplex import check_x_channels, input_streams, upsampled

ENCODERS = ("mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5")
STAGES = (1, 2, 3, 4)
# the first attention takes its keys from 8 x 8 patches of the feature at stride 4, and needs at least one patch
SMALLEST = 29


class OFFNet(nn.Module):
    """Two SegFormer encoders fused by cross attention, and SegFormer's decoder of linear layers.

    Source: Min et al., "ORFD: A Dataset and Benchmark for Off-Road Freespace Detection", ICRA 2022; the encoders and
    the decoder are those of Xie et al., "SegFormer", NeurIPS 2021. With ``x_channels=None`` there is no X encoder, and
    the network is LIX's student: ``forward(image)``. With a number it is the teacher: ``forward(image, x)``, or
    ``forward(image, *x)`` for several modalities with that number of channels together.

    The cross attention is that of the released code: one weight for each channel and pixel, computed from both streams
    (``CrossAttention``), so its memory is linear in the number of pixels. SegFormer's own attention compares each pixel
    with one pixel of 64. The released code fuses once, after the first stage; later stages have one encoder, and the
    first stages of both streams share their weights. Here each stream has its own encoder, as LIX says, and all stages
    are fused: the RGB encoder continues with the fused feature, the X encoder with its own.

    The decoder works at stride 4, and its logits are upsampled bilinearly to the size of the image. Height and width
    must be at least 29, because the first attention reduces its keys by 8 at stride 4.

    Layers to tap, the same in teacher and student. Mix Transformers have no feature at stride 2, so numbers start at 1:

    - ``fuse.1`` ... ``fuse.4``: the fused features of the stages, with the encoder's channels, strides 4, 8, 16, 32
      (32, 64, 160, 256 channels for ``mit_b0``; 64, 128, 320, 512 for the others);
    - ``decoder``: the last feature, ``decoder_channels`` channels, stride 4.

    Args:
        num_classes: C, the number of logits of a pixel.
        x_channels: The channels of X, such as 1 for disparity and 3 for normals; ``None`` for the student.
        encoder_name: ``mit_b0`` to ``mit_b5``; OFF-Net has ``mit_b2``.
        pretrained: Whether the encoders start from ImageNet weights, which are downloaded. The first convolution of X
            always starts from random weights, because X is no photograph.
        decoder_channels: The width of the decoder.

    Raises:
        ValueError: The encoder is not a Mix Transformer, or ``x_channels`` is not positive. From ``forward``: the image
            is too small.
    """

    def __init__(
        self,
        num_classes: int,
        x_channels: int | None = None,
        encoder_name: str = "mit_b0",
        pretrained: bool = False,
        decoder_channels: int = 256,
    ) -> None:
        super().__init__()
        check_x_channels(x_channels)
        check_option("encoder_name", encoder_name, ENCODERS)
        self.x_channels = x_channels
        self.encoder, channels = _mix_transformer(encoder_name, pretrained)
        self.x_encoder = None if x_channels is None else _mix_transformer(encoder_name, pretrained, x_channels)[0]
        self.fuse = nn.ModuleDict(
            {
                str(stage): nn.Identity() if x_channels is None else CrossAttention(width)
                for stage, width in zip(STAGES, channels, strict=True)
            }
        )
        self.decoder = MLPDecoder(channels, decoder_channels)
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)

    def forward(self, image: Tensor, *x: Tensor) -> Tensor:
        """Logits ``(N, C, H, W)`` for ``(N, 3, H, W)`` and X ``(N, c, H, W)``."""
        streams = input_streams(self.x_channels, image, x)
        if min(image.shape[-2:]) < SMALLEST:
            raise UserError(f"image must be at least {SMALLEST} x {SMALLEST} pixels, got {tuple(image.shape[-2:])}")
        encoders = [self.encoder] if self.x_encoder is None else [self.encoder, self.x_encoder]
        features = []
        for stage, fuse in enumerate(self.fuse.values()):
            streams = [encoder[stage](stream) for encoder, stream in zip(encoders, streams, strict=True)]
            streams[0] = fuse(*streams)
            features.append(streams[0])
        logits: Tensor = self.classifier(self.decoder(features))
        return upsampled(logits, image)


class CrossAttention(nn.Module):
    """A sum of two streams with a weight for each channel and pixel.

    With a = sigmoid(W (image + x) + b), the result is (1 + a) image + (2 - a) x: one stream loses the weight that the
    other gains.

    Args:
        channels: Channels of each stream.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, channels, 1)

    def forward(self, image: Tensor, x: Tensor) -> Tensor:
        """The fused feature ``(N, channels, H, W)`` of two streams of that shape."""
        attention: Tensor = self.linear(image + x).sigmoid()
        return (1 + attention) * image + (2 - attention) * x


class MLPDecoder(nn.Module):
    """SegFormer's decoder: a linear layer on each feature, upsampling, and a linear layer on their concatenation.

    Args:
        in_channels: Channels of the features.
        channels: Channels of each linear layer's output.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.fuse = nn.Sequential(
            nn.Conv2d(len(in_channels) * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """``(N, channels, H, W)`` in the size of the first feature."""
        projected = [linear(feature) for linear, feature in zip(self.linear, features, strict=True)]
        fused: Tensor = self.fuse(torch.cat([upsampled(feature, features[0]) for feature in projected], 1))
        return fused


def _mix_transformer(name: str, pretrained: bool, x_channels: int | None = None) -> tuple[nn.ModuleList, list[int]]:
    """The four stages of an encoder and their channels; with ``x_channels`` the encoder of X."""
    network = get_encoder(name, weights="imagenet" if pretrained else None)
    layers = [[getattr(network, f"{layer}{stage}") for layer in ("patch_embed", "block", "norm")] for stage in STAGES]
    channels = list(network.out_channels[-len(STAGES) :])
    if x_channels is not None:
        _fit_to_x(layers[0][0], x_channels, channels[0])
        # X has its own unit, such as metres or pixels of disparity
        layers[0].insert(0, nn.BatchNorm2d(x_channels))
    return nn.ModuleList(nn.Sequential(*stage) for stage in layers), channels


def _fit_to_x(patch_embedding: Any, x_channels: int, width: int) -> None:
    """Replaces the patch embedding of the first stage by one for X, which can tell the values of X apart.

    LayerNorm follows the embedding and keeps only the direction of w d + b. With the usual b = 0, or if d is far from
    unit variance, a flat surface looks the same at any distance d: b must be as large as w d. So batch normalisation
    comes before, and b is drawn with the standard deviation of w d for a flat surface at d = 1.
    """
    usual = patch_embedding.proj
    projection = nn.Conv2d(x_channels, width, usual.kernel_size, usual.stride, usual.padding)
    nn.init.kaiming_normal_(projection.weight, mode="fan_out")
    assert projection.bias is not None
    nn.init.normal_(projection.bias, std=math.sqrt(2 * x_channels / width))
    patch_embedding.proj = projection
