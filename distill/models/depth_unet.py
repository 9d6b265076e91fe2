"""The student of TIE-KD (Choi et al., 2024): a U-Net whose output is a probability over bins of depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from distill.errors import UserError
from distill.losses import decode_depth
from distill.models.duplex import upsampled
from distill.models.monocular import check_depths, check_image


class Recipe(NamedTuple):
    """The default output stride and widths for a backbone."""

    output_stride: int
    decoder_channels: tuple[int, ...]


RECIPES = {
    "mobilenet_v2": Recipe(8, (1744, 512, 256, 128)),
    "resnet18": Recipe(32, (640, 256, 256, 128, 128)),
    "resnet50": Recipe(32, (2048, 1024, 512, 256, 128)),
}
OTHERS = Recipe(32, (512, 256, 128, 64))


class DepthUNet(nn.Module):
    """Depth from one image, regressed or as the mean of a probability over bins.

    TIE-KD, Sec. 4.2: an encoder-decoder whose last layer is a depth probability map of the image's own height and
    width, with one value a bin. Depth is the mean of the bins' centres under its softmax (eq. 3); the centres are the
    midpoints of ``bins`` equal bins between ``min_depth`` and ``max_depth``. With ``bins=None`` it is the student of
    response-based distillation and the baseline: the same network has one output instead of the bins, and depth is
    ``min_depth + (max_depth - min_depth) sigmoid(output)``.

    The decoder is as released: a 1x1 convolution of the smallest feature, then at each skip connection bilinear
    upsampling, concatenation and two 3x3 convolutions with ReLU, without normalisation. The paper gives 17.6 M
    parameters for MobileNetV2, 16.7 M for ResNet-18 and 78.3 M for ResNet-50; the defaults here give 17.64 M, 16.55 M
    and 77.80 M. MobileNetV2 differs: the library's encoder ends with a layer of 1280 channels, the released one before
    that layer, and the 1x1 convolution has 1744 channels here, 2048 there.

    The last 1x1 convolution comes before the upsampling to the image's size, not after it. The two commute, so the
    convolution can run at the decoder's resolution. Images may have any height and width.

    Layers to tap:

    - ``bins``: the logits over the bins ``(N, bins, H, W)``, on which :class:`~distill.methods.TIEKD` trains; absent
      with ``bins=None``;
    - ``decoder``: the last feature, ``decoder_channels[-1]`` channels, at the stride of the last skip connection.

    Args:
        backbone: An encoder of segmentation_models_pytorch, such as ``mobilenet_v2`` or ``tu-mobilenetv3_small_050``.
        bins: Number of bins, 257 in the paper; ``None`` to regress depth.
        min_depth: Where the bins begin, in metres.
        max_depth: Where the bins end, in metres: 80 for KITTI.
        decoder_channels: The width of the 1x1 convolution, then one width for each skip connection from the smallest
            feature up. Four widths end at stride 4, five at stride 2. By default those of the paper for its three
            backbones, and 512, 256, 128, 64 for others.
        output_stride: 32; or 16 or 8 for encoders that can be dilated, whose last features are then larger. By default
            8 for ``mobilenet_v2``, as released, and 32 for others.
        pretrained: Whether the encoder starts from ImageNet's weights, which are downloaded.

    Raises:
        ValueError: There is no bin, the range of depths is empty, there are not two to five widths, or the encoder
            cannot be dilated. From ``forward``: the image is not ``(N, 3, H, W)``.
        KeyError: The library has no such encoder.
    """

    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        bins: int | None = 257,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        decoder_channels: Sequence[int] | None = None,
        output_stride: int | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        check_depths(min_depth, max_depth)
        if bins is not None and bins < 1:
            raise UserError(f"bins must be at least 1, or None to regress depth, got {bins}")
        recipe = RECIPES.get(backbone, OTHERS)
        widths = tuple(decoder_channels or recipe.decoder_channels)
        if not 2 <= len(widths) <= 5:
            raise UserError(f"decoder_channels must be two to five widths, got {widths}")
        self.min_depth = min_depth
        self.max_depth = max_depth
        stride = output_stride or recipe.output_stride
        self.encoder = get_encoder(backbone, weights="imagenet" if pretrained else None, output_stride=stride)
        self.decoder = Decoder(self.encoder.out_channels[-len(widths) :], widths)
        self.bins = None if bins is None else UpsampledConv(widths[-1], bins, 1)
        self.regression = UpsampledConv(widths[-1], 1, 3) if bins is None else None

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(N, 1, H, W)`` in metres for ``(N, 3, H, W)``."""
        check_image(image)
        feature = self.decoder(self.encoder(image))
        if self.bins is not None:
            return decode_depth(self.bins(feature, image), min_depth=self.min_depth, max_depth=self.max_depth)
        assert self.regression is not None
        share: Tensor = self.regression(feature, image).float().sigmoid()
        return self.min_depth + (self.max_depth - self.min_depth) * share


class Decoder(nn.Module):
    """A 1x1 convolution of the smallest feature, then one upsampling block for each skip connection.

    Args:
        skip_channels: Channels of the features, the largest feature first.
        channels: Widths of the 1x1 convolution and of the blocks, one for each feature, the smallest feature first.
    """

    def __init__(self, skip_channels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        *skips, smallest = skip_channels
        self.project = nn.Sequential(nn.Conv2d(smallest, channels[0], 1), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(below + skip, width, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(inplace=True),
            )
            for below, skip, width in zip(channels, reversed(skips), channels[1:], strict=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # without normalisation, torch's default weights would shrink the feature at each layer
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """``(N, channels[-1], *, *)`` in the size of the largest skip connection; earlier features are not used."""
        *skips, smallest = features[-len(self.blocks) - 1 :]
        feature: Tensor = self.project(smallest)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            feature = block(torch.cat([upsampled(feature, skip), skip], 1))
        return feature


class UpsampledConv(nn.Module):
    """A convolution whose output is upsampled to the size of the image.

    Args:
        in_channels: Channels of the feature.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, feature: Tensor, image: Tensor) -> Tensor:
        """``(N, out_channels, H, W)`` for a feature ``(N, in_channels, *, *)`` and an image ``(N, 3, H, W)``."""
        return upsampled(self.conv(feature), image)
