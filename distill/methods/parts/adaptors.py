"""Layers that bring a student's features to a teacher's shape; they find their channel counts in the first call."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter


def convolve_to(channels: int, convolution: nn.Module, feature: Tensor) -> Tensor:
    """The output of a lazy convolution, which gets ``channels`` output channels in its first call.

    Args:
        channels: The number of output channels, the same in every call.
        convolution: A lazy convolution; its own number of output channels is not used.
        feature: ``(N, C, *)``.
    """
    if isinstance(convolution.weight, UninitializedParameter):
        convolution.out_channels = channels  # type: ignore[assignment]
    result: Tensor = convolution(feature)
    return result


class PointwiseMLP(nn.Module):
    """An MLP on each position of a map: 1x1 convolutions with a ReLU between them.

    Args:
        layers: The number of convolutions.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.LazyConv2d(1, kernel_size=1) for _ in range(layers))

    def forward(self, feature: Tensor, channels: int) -> Tensor:
        """``(N, C, H, W)`` to ``(N, channels, H, W)``; all layers have ``channels`` outputs, the same in every call."""
        for index, convolution in enumerate(self.convolutions):
            feature = convolve_to(channels, convolution, F.relu(feature) if index > 0 else feature)
        return feature
