"""Layers that bring a student's features to a teacher's shape; they find their shapes in the first call."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from distill.errors import UserError

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def convolve_to(channels: int, convolution: nn.Module, feature: Tensor) -> Tensor:
    """The output of a lazy convolution of torch, which gets ``channels`` output channels in its first call.

    Args:
        channels: The number of output channels, the same in every call.
        convolution: A lazy convolution; its own number of output channels is not used.
        feature: ``(N, C, *)``.
    """
    if isinstance(convolution.weight, UninitializedParameter):
        convolution.out_channels = channels  # type: ignore[assignment]
    result: Tensor = convolution(feature)
    return result


def convolve_pointwise(feature: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution of features with any number of spatial dims.

    Args:
        feature: ``(N, C, *)``.
        weight: ``(channels, C, 1, 1)``.
        bias: ``(channels,)``.

    Returns:
        ``(N, channels, *)``, in the memory format of the feature.
    """
    if feature.ndim == 4:
        return F.conv2d(feature, weight, bias)
    # viewed as a map with two dims; this copies nothing, also if the channels come last in memory
    image = feature.flatten(3) if feature.ndim > 4 else feature.view(*feature.shape, *[1] * (4 - feature.ndim))
    return F.conv2d(image, weight, bias).reshape(len(feature), len(weight), *feature.shape[2:])


class _LazyConvolution(LazyModuleMixin, nn.Module):
    """A weight and a bias that start as those of torch's convolutions, in the first call.

    Args:
        bias: Whether there is a bias.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.weight = UninitializedParameter()
        self.bias = UninitializedParameter() if bias else None

    def kernel_size(self, feature: Tensor) -> tuple[int, ...]:
        """The size of the kernel for a feature ``(N, C, *)``."""
        raise NotImplementedError

    def initialize_parameters(self, feature: Tensor, channels: int) -> None:
        """Draws weight and bias for a feature and a number of output channels."""
        kernel = self.kernel_size(feature)
        if isinstance(self.weight, UninitializedParameter):
            self.weight.materialize((channels, feature.shape[1], *kernel))
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if isinstance(self.bias, UninitializedParameter):
            self.bias.materialize((channels,))
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)


class Pointwise(_LazyConvolution):
    """A 1x1 convolution of vectors and of maps with any number of spatial dims; its weight is ``(D, C, 1, 1)``."""

    def kernel_size(self, feature: Tensor) -> tuple[int, ...]:
        """1x1 for all features."""
        return 1, 1

    def forward(self, feature: Tensor, channels: int) -> Tensor:
        """``(N, C, *)`` to ``(N, channels, *)``; ``channels`` must be the same in every call."""
        return convolve_pointwise(feature, self.weight, self.bias)


class Convolution(_LazyConvolution):
    """A convolution over three neighbours along each of the 1 to 3 spatial dims that the first feature has."""

    def kernel_size(self, feature: Tensor) -> tuple[int, ...]:
        """3 for each spatial dim.

        Raises:
            ValueError: There are none, or more than 3.
        """
        if feature.ndim - 2 not in CONVOLUTIONS:
            raise UserError(f"a convolution takes features of 1 to 3 spatial dims, got {tuple(feature.shape)}")
        return (3,) * (feature.ndim - 2)

    def forward(self, feature: Tensor, channels: int) -> Tensor:
        """``(N, C, *)`` to ``(N, channels, *)`` of the same size; ``channels`` must be the same in every call."""
        return CONVOLUTIONS[self.weight.ndim - 2](feature, self.weight, self.bias, padding=1)


class PointwiseMLP(nn.Module):
    """An MLP on each position of a feature: 1x1 convolutions with a ReLU between them.

    Args:
        layers: The number of convolutions.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(Pointwise() for _ in range(layers))

    def forward(self, feature: Tensor, channels: int) -> Tensor:
        """``(N, C, *)`` to ``(N, channels, *)``; all layers have ``channels`` outputs, the same in every call."""
        for index, convolution in enumerate(self.convolutions):
            feature = convolution(F.relu(feature) if index > 0 else feature, channels)
        return feature
