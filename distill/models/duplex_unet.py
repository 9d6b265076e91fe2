"""A U-Net with two encoders, on segmentation_models_pytorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from distill.errors import UserError
from distill.models.duplex import Add, check_x_channels, input_streams

Fusion = Literal["add", "concat", "gate"]


class DuplexUNet(nn.Module):
    """A U-Net whose skip connections are fused from two encoders, any of segmentation_models_pytorch by name.

    With ``x_channels=None`` there is no X encoder, and the network computes what ``smp.Unet`` does and shares its state
    dict: the student, ``forward(image)``. With a number it is the teacher: ``forward(image, x)``, or several modalities
    ``forward(image, *x)`` with so many channels together. The encoders run side by side and are fused at each stride,
    the sum being what SNE-RoadSeg (Fan et al., ECCV 2020) takes:

    - ``"add"``: image + x;
    - ``"concat"``: a 1x1 convolution of both, batch normalisation and ReLU;
    - ``"gate"``: image + g x, where g = sigmoid(W [image, x] + b) for each channel and pixel, so that a place where X
      is missing or noisy can be left out.

    Any height and width will do: the decoder upsamples to the size of its skip connections, at the end to the image's.

    Layers to tap, the same in teacher and student:

    - ``fuse.0`` ... ``fuse.4``: the fused features with the encoder's channels, strides 2, 4, 8, 16, 32 (64, 64, 128,
      256, 512 channels for ``resnet18``). Mix Transformers have no channels at stride 2: there ``fuse.0`` is empty;
    - ``decoder``: the last feature, ``decoder_channels[-1]`` channels, stride 1.

    Args:
        num_classes: C, the number of logits of a pixel.
        encoder_name: An encoder of segmentation_models_pytorch, such as ``resnet18`` or ``tu-mobilenetv2_100``.
        x_channels: The channels of X, such as 1 for disparity and 3 for normals; ``None`` for the student.
        fusion: How the two streams of a teacher become one.
        decoder_channels: The widths of the decoder, from the smallest feature up; as many as the encoders have stages.
        encoder_weights: Weights that both encoders start from, such as ``"imagenet"``, which are downloaded; ``None``
            starts from random ones.

    Raises:
        ValueError: ``fusion`` is unknown, or ``x_channels`` is not positive.
        KeyError: The library has no such encoder.
    """

    def __init__(
        self,
        num_classes: int,
        encoder_name: str = "resnet18",
        x_channels: int | None = None,
        fusion: Fusion = "add",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        check_x_channels(x_channels)
        if fusion not in FUSIONS:
            raise UserError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        self.x_channels = x_channels
        depth = len(decoder_channels)
        unet = smp.Unet(
            encoder_name, depth, encoder_weights, decoder_channels=tuple(decoder_channels), classes=num_classes
        )
        self.encoder = unet.encoder
        self.decoder = unet.decoder
        self.segmentation_head = unet.segmentation_head
        self.x_encoder = (
            None
            if x_channels is None
            else nn.Sequential(
                # X comes in its own unit; encoders, pretrained ones above all, expect values of unit variance
                nn.BatchNorm2d(x_channels),
                get_encoder(encoder_name, in_channels=x_channels, depth=depth, weights=encoder_weights),
            )
        )
        self.fuse = nn.ModuleList(
            nn.Identity() if x_channels is None else _fusion(fusion, channels)
            for channels in self.encoder.out_channels[1:]
        )

    def forward(self, image: Tensor, *x: Tensor) -> Tensor:
        """Logits ``(N, C, H, W)`` for ``(N, 3, H, W)`` and X ``(N, c, H, W)``."""
        streams = input_streams(self.x_channels, image, x)
        pyramids = [self.encoder(streams[0])]
        if self.x_encoder is not None:
            pyramids.append(self.x_encoder(streams[1]))
        # an encoder's first feature is its input, which the decoder reads the size of
        (image, *_), *stages = zip(*pyramids, strict=True)
        features = [fuse(*stage) for fuse, stage in zip(self.fuse, stages, strict=True)]
        logits: Tensor = self.segmentation_head(self.decoder([image, *features]))
        return logits


class Concat(nn.Module):
    """A 1x1 convolution of both streams, batch normalisation and ReLU.

    Args:
        channels: Channels of each stream, and of the result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )

    def forward(self, image: Tensor, x: Tensor) -> Tensor:
        """The fused feature ``(N, channels, H, W)`` of two streams of that shape."""
        fused: Tensor = self.project(torch.cat([image, x], 1))
        return fused


class Gate(nn.Module):
    """The image's stream and as much of X as a gate, computed from both, lets through.

    Args:
        channels: Channels of each stream.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, image: Tensor, x: Tensor) -> Tensor:
        """The fused feature ``(N, channels, H, W)`` of two streams of that shape."""
        gate: Tensor = self.gate(torch.cat([image, x], 1)).sigmoid()
        return image + gate * x


FUSIONS = {"add": lambda channels: Add(), "concat": Concat, "gate": Gate}


def _fusion(fusion: Fusion, channels: int) -> nn.Module:
    """A fusion by name; a stage without channels has nothing to convolve."""
    return FUSIONS[fusion](channels) if channels else Add()
