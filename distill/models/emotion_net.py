"""The networks of NTDH (Chen et al., 2024) for sound and faces: the same number of 2D convolutions for both."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from distill.errors import UserError

WIDTHS = (64, 128, 256, 512, 768, 1024)
HIDDEN = 768


class EmotionNet(nn.Module):
    """Six convolutions with batch normalisation and ReLU, each but the last with pooling, and two linear layers.

    NTDH, Sec. IV-B, has "a 2D convolutional network with the same number of layers" for both modalities of RAVDESS,
    "and the kernel sizes are adjusted"; Table I gives 13.07 M parameters for the image and 13.24 M for the sound. The
    paper gives no more details. Here it is 12.98 M for eight frames (24 ``in_channels``) with kernels of 3, and 13.10 M
    for sound with ``in_channels=1`` and ``kernel_sizes=(5, 5, 3, 3, 3, 3)``: within 1.1 %.

    The input may have any height and width from 32 on.

    Layers to tap: ``blocks.0`` to ``blocks.5``, strides 2, 4, 8, 16, 32 and 32, with 64, 128, 256, 512, 768 and 1024
    channels; ``hidden``, ``(N, 768)``.

    Args:
        num_classes: C, the number of logits.
        in_channels: 1 for sound, three times the number of frames for video.
        kernel_sizes: The odd kernel sizes of the six convolutions.
        dropout: The share of hidden units that are dropped before the last layer.

    Raises:
        ValueError: There are not six odd kernel sizes. From ``forward``: the input has other channels or is too small.
    """

    def __init__(
        self,
        num_classes: int = 8,
        in_channels: int = 24,
        kernel_sizes: Sequence[int] = (3, 3, 3, 3, 3, 3),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if len(kernel_sizes) != len(WIDTHS) or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise UserError(f"kernel_sizes must be {len(WIDTHS)} odd numbers, got {list(kernel_sizes)}")
        self.in_channels = in_channels
        layers = zip((in_channels, *WIDTHS), WIDTHS, kernel_sizes, strict=False)
        self.blocks = nn.Sequential(
            *(_block(*layer, pool=at < len(WIDTHS) - 1) for at, layer in enumerate(layers)),
        )
        self.hidden = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], HIDDEN), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(HIDDEN, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, C)`` for ``(N, in_channels, H, W)``, or for frames ``(N, 3, F, H, W)``."""
        images = x.flatten(1, 2) if x.ndim == 5 else x
        if images.ndim != 4 or images.shape[1] != self.in_channels or min(images.shape[2:]) < 32:
            raise UserError(
                f"input must be (N, {self.in_channels}, H, W), or frames (N, 3, F, H, W) with that number of channels, "
                f"of at least 32 x 32, got {tuple(x.shape)}"
            )
        logits: Tensor = self.head(self.dropout(self.hidden(self.blocks(images))))
        return logits


def _block(inputs: int, outputs: int, kernel_size: int, *, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))
