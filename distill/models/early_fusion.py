"""Several modalities for a network of another library that takes one input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class EarlyFusion(nn.Module):
    """Concatenates its inputs for a network that takes one input, such as ``monai.networks.nets.UNet``.

    Layers to tap and parameters have the names of the network's with ``network.`` before them.

    Args:
        network: A module of one input ``(N, c, *)``, where c is the number of channels of all modalities together.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        """What the network returns for the inputs ``(N, *, *spatial)``, whose channels are concatenated."""
        return self.network(torch.cat(inputs, 1))
