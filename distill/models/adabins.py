"""AdaBins (Bhat et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import UserError
from distill.losses.dpm import expected_depth
from distill.models.duplex import upsampled
from distill.models.monocular import check_depths, check_image, encoder_pyramid

SMALLEST_WIDTH = 1e-3
HEADS = 4
# rows and columns of patches with learned positions; the positions of others are interpolated
POSITIONS = (16, 32)


class AdaBins(nn.Module):
    """Depth from one image, as the mean of a probability over bins whose widths the network predicts for each image.

    Source: Bhat et al., "AdaBins: Depth Estimation Using Adaptive Bins", CVPR 2021; one of TIE-KD's teachers. A decoder
    brings the encoder's features to half the image's size. A small transformer works on patches of that feature. Its
    first output gives the widths of the bins. Its next outputs give the kernels of 1x1 convolutions, whose responses,
    the range attention maps, become the logits over the bins. Depth is the mean of the bins' centres under the softmax
    of the logits, upsampled bilinearly to the image's size.

    With ``tf_efficientnet_b5`` it has 78.3 M parameters, 78 M in the paper. Four things differ. There is no chamfer
    loss between the bins and the ground truth, because networks have no losses here. timm's features end before
    EfficientNet's last 1x1 convolution, which is here a part of the decoder and starts from random weights. Positions
    are learned on a grid of 16 x 32 patches and interpolated to the image's grid, so images may have any size, also
    another one than in training. The widths have the paper's 0.001 added; the released code adds 0.1.

    Layers to tap, both at stride 2: ``decoder``, the transformer's input, with ``embedding_dim`` channels; ``logits``,
    the logits over the bins.

    Args:
        encoder_name: A convolutional network of timm with features at strides 2 to 32, as ``resnet18``.
        bins: Number of bins.
        min_depth: Where the bins begin, in metres.
        max_depth: Where the bins end, in metres.
        decoder_channels: The decoder's width at stride 32, halved with each upsampling: a multiple of 16.
        embedding_dim: Channels of the decoded feature and of the transformer's embeddings, a multiple of its 4 heads.
        queries: Number of range attention maps.
        patch_size: Side of the patches at half the image's size. An image must have at least ``queries + 1`` patches:
            small images, such as 64 x 208 pixels, need smaller patches or fewer queries.
        pretrained: Whether the encoder starts from timm's ImageNet weights, which are downloaded.

    Raises:
        ValueError: There is no such encoder, it has other strides, the range of depths is empty, or
            ``decoder_channels`` or ``embedding_dim`` is not the multiple that it must be. From ``forward``: the image
            is not ``(N, 3, H, W)``, or has too few patches.
    """

    def __init__(
        self,
        encoder_name: str = "tf_efficientnet_b5",
        bins: int = 256,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        decoder_channels: int = 2048,
        embedding_dim: int = 128,
        queries: int = 128,
        patch_size: int = 16,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        check_depths(min_depth, max_depth)
        if decoder_channels < 16 or decoder_channels % 16:
            raise UserError(f"decoder_channels must be a multiple of 16, got {decoder_channels}")
        if embedding_dim % HEADS:
            raise UserError(f"embedding_dim must be a multiple of the {HEADS} attention heads, got {embedding_dim}")
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.encoder, channels = encoder_pyramid(encoder_name, pretrained)
        self.decoder = Decoder(channels, decoder_channels, embedding_dim)
        self.transformer = MiniViT(bins, embedding_dim, queries, patch_size)
        self.logits = nn.Conv2d(queries, bins, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(N, 1, H, W)`` in metres for ``(N, 3, H, W)``."""
        check_image(image)
        widths, maps = self.transformer(self.decoder(self.encoder(image)))
        centers = bin_centers(widths.float(), self.min_depth, self.max_depth)
        return upsampled(expected_depth(self.logits(maps), centers), image)


class MiniViT(nn.Module):
    """A transformer over the patches of a feature, which predicts the bins and the positions of each range of depths.

    Args:
        bins: Number of bins.
        channels: Channels of the feature and of the embeddings.
        queries: Number of range attention maps.
        patch_size: Side of the patches.
    """

    def __init__(self, bins: int, channels: int, queries: int, patch_size: int) -> None:
        super().__init__()
        self.queries = queries
        self.patch_size = patch_size
        self.embed = nn.Conv2d(channels, channels, patch_size, patch_size)
        self.positions = nn.Parameter(0.02 * torch.randn(1, channels, *POSITIONS))
        layer = nn.TransformerEncoderLayer(channels, nhead=HEADS, dim_feedforward=1024, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False)
        self.project = nn.Conv2d(channels, channels, 3, padding=1)
        self.widths = nn.Sequential(
            nn.Linear(channels, 256), nn.LeakyReLU(), nn.Linear(256, 256), nn.LeakyReLU(), nn.Linear(256, bins)
        )

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The widths of the bins ``(N, bins)``, of sum 1, and the range attention maps ``(N, queries, h, w)``.

        Args:
            feature: ``(N, channels, h, w)``.

        Raises:
            ValueError: There are fewer than ``queries + 1`` patches.
        """
        patches = feature.shape[-2] // self.patch_size * (feature.shape[-1] // self.patch_size)
        if patches <= self.queries:
            raise UserError(
                f"the image must have at least {self.queries + 1} patches of {self.patch_size} x {self.patch_size} at "
                f"half its size, and has {patches}: take a smaller patch_size, or fewer queries"
            )
        embedded = self.embed(feature)
        tokens = self.layers((embedded + upsampled(self.positions, embedded)).flatten(2).transpose(1, 2))
        kernels = tokens[:, 1 : 1 + self.queries]
        maps = torch.einsum("nqc,nchw->nqhw", kernels, self.project(feature))
        widths = self.widths(tokens[:, 0]).relu() + SMALLEST_WIDTH
        return widths / widths.sum(1, keepdim=True), maps


class Decoder(nn.Module):
    """Widens the smallest feature, then upsamples it to the size of the largest over all skip connections.

    Args:
        skip_channels: Channels of the features, the largest feature first.
        width: Channels of the smallest feature once it is widened; halved with each upsampling.
        out_channels: Channels of the result.
    """

    def __init__(self, skip_channels: Sequence[int], width: int, out_channels: int) -> None:
        super().__init__()
        *skips, smallest = skip_channels
        self.widen = nn.Sequential(
            nn.Conv2d(smallest, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, width, 1),
        )
        widths = [width >> level for level in range(len(skip_channels))]
        self.blocks = nn.ModuleList(
            nn.Sequential(*_conv_bn_leaky(below + skip, above), *_conv_bn_leaky(above, above))
            for below, skip, above in zip(widths, reversed(skips), widths[1:], strict=False)
        )
        self.project = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """``(N, out_channels, *, *)`` in the size of the first feature."""
        *skips, smallest = features
        feature = self.widen(smallest)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            feature = block(torch.cat([upsampled(feature, skip), skip], 1))
        decoded: Tensor = self.project(feature)
        return decoded


def bin_centers(widths: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """The centres ``(N, bins)`` of consecutive bins; the first one begins at ``min_depth``.

    Args:
        widths: ``(N, bins)`` shares of the range of depths, of sum 1.
        min_depth: Where the first bin begins, in metres.
        max_depth: Where the last one ends, in metres.
    """
    edges = min_depth + (max_depth - min_depth) * F.pad(widths.cumsum(1), (1, 0))
    return (edges[:, 1:] + edges[:, :-1]) / 2


def _conv_bn_leaky(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(inplace=True),
    ]
