"""Layers of a student's side that bring its features to a teacher's shape; channel counts are found, not asked for."""

from __future__ import annotations

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
