"""A layer that brings a student's features to the channels and the scale of a teacher's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from distill.distributed import gather
from distill.methods.parts.adaptors import Pointwise


class Regressor(nn.Module):
    """A 1x1 convolution and batch normalisation, with a scale and a shift for each channel.

    Without the normalisation the gradient of a hint's squared error grows with the student's features, and training
    diverges with the weights and learning rates of the distillation literature. Mean and variance are those of the
    batch of all processes together, so that no term depends on how the batch is shared. There are no running
    statistics, because the regressor is not deployed. The first call finds the channel counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolution = Pointwise(bias=False)
        self.normalisation = _GlobalBatchNorm()

    def forward(self, feature: Tensor, channels: int) -> Tensor:
        """``(N, C, *)`` to ``(N, channels, *)``; ``channels`` must be the same in every call."""
        regressed: Tensor = self.normalisation(self.convolution(feature, channels))
        return regressed


class _GlobalBatchNorm(LazyModuleMixin, nn.Module):
    """Batch normalisation over all processes, on any device and also of one value a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor = UninitializedParameter()
        self.bias: Tensor = UninitializedParameter()

    def initialize_parameters(self, feature: Tensor) -> None:
        """One scale of 1 and one shift of 0 for each channel."""
        for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if isinstance(parameter, UninitializedParameter):
                parameter.materialize((feature.shape[1], 1, 1))
                nn.init.constant_(parameter, value)

    def forward(self, feature: Tensor) -> Tensor:
        """The feature ``(N, C, *)``, normalised over all dims but the channels."""
        centred = feature - _mean_of_channels(feature)
        deviation = (_mean_of_channels(centred.square()) + 1e-5).sqrt()
        weight, bias = (parameter.view(deviation.shape) for parameter in (self.weight, self.bias))
        return weight / deviation * centred + bias


def _mean_of_channels(feature: Tensor) -> Tensor:
    """``(C, 1, ...)``, over all samples of all processes and over positions."""
    dims = tuple(range(2, feature.ndim))
    # computed as a sum, whose gradient is a view; the gradient of a mean is a tensor of the feature's size
    of_samples = feature.sum(dims) / feature.shape[2:].numel() if dims else feature
    of_all = gather(of_samples)
    return (of_all.sum(0) / max(1, len(of_all))).view(-1, *[1] * len(dims))  # there may be no sample
