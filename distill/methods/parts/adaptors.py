"""Layers of a student's side that bring its features to a teacher's shape; channel counts are found, not asked for."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter


def convolve_to(channels: int, convolution: nn.Module, feature: Tensor) -> Tensor:
    """Applies a lazy convolution, which at its first call becomes one to ``channels`` channels.

    Args:
        channels: How many channels to return, the same in every call.
        convolution: A lazy convolution; the number of output channels it was made with does not matter.
        feature: ``(N, C, *)``.
    """
    if isinstance(convolution.weight, UninitializedParameter):
        convolution.out_channels = channels  # type: ignore[assignment]
    result: Tensor = convolution(feature)
    return result


class PointwiseMLP(nn.Module):
    """An MLP that is the same at every position of a map: 1x1 convolutions with a ReLU between them.

    Args:
        layers: How many.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.LazyConv2d(1, kernel_size=1) for _ in range(layers))

    def forward(self, feature: Tensor, channels: int) -> Tensor:
        """``(N, C, H, W)`` to ``(N, channels, H, W)``; every layer has so many channels, the same in every call."""
        for index, convolution in enumerate(self.convolutions):
            feature = convolve_to(channels, convolution, F.relu(feature) if index > 0 else feature)
        return feature
