"""The parts of all networks for small images, and the layer names that they share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import Tensor, nn

from distill.errors import UserError


class CifarNetwork(nn.Sequential):
    """A chain of layers with the same names in all networks, so that configurations can exchange networks.

    The layers to tap, in the order in which they run:

    - ``stem``: at the size of the input, except in MobileNetV2;
    - ``stage1``, ``stage2``, ``stage3`` and in some networks ``stage4``: the early, middle and late features. The
      released code of CRD (Tian et al., ICLR 2020), and of many later papers, calls them ``f1`` to ``f4``;
    - ``final``: the layers between the last stage and the pooling, in some networks;
    - ``pool``: the mean over all positions, ``(N, C)``, the penultimate feature;
    - ``fc``: the logits.

    No layer works in place, so later layers do not change tapped features.

    Images may have any height and width. Layers that halve them round up, so that stages of the same stride have the
    same size in all networks: 28, 14, 7 and 4 for digits.

    Args:
        in_channels: The channels of the image.
        stem: The first layer.
        stages: The stages.
        out_channels: The channels of the pooled feature.
        num_classes: C, the number of logits.
        final: The layers between the stages and the pooling, if there are any.

    Raises:
        ValueError: From ``forward``: the input is not a batch of images with ``in_channels`` channels.
    """

    def __init__(
        self,
        in_channels: int,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        out_channels: int,
        num_classes: int,
        final: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stem = stem
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"stage{number}", stage)
        if final is not None:
            self.final = final
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(out_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(N, C)`` for images ``(N, in_channels, H, W)``."""
        if image.dim() != 4 or image.shape[1] != self.in_channels:
            raise UserError(
                f"{type(self).__name__} was built with in_channels={self.in_channels} and takes images "
                f"(N, {self.in_channels}, H, W), got {tuple(image.shape)}"
            )
        feature = image
        for layer in self:
            feature = layer(feature)
        return feature


class Stage(nn.Sequential):
    """Blocks with a ReLU after each.

    The stage's own name is the feature after the last ReLU; ``preact`` in it, such as ``stage1.preact``, is the feature
    before.

    Args:
        blocks: At least one, none of which ends in an activation.
    """

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        first, *others = blocks
        self.preact = nn.Sequential(first, *chain.from_iterable((nn.ReLU(), block) for block in others))
        self.relu = nn.ReLU()


class ConvBN(nn.Sequential):
    """A convolution that keeps the size, or divides it by the stride and rounds up, and batch normalisation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias),
            nn.BatchNorm2d(out_channels),
        )
