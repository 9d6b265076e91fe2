"""A network on maps that stores its features in one of several layouts."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stored = Literal["channels_first", "channels_last", "tokens", "class_token"]


class Stem(nn.Module):
    """A layer at each position, as a part that names no layout itself, between layers that do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.layer(x))


class Pointwise(nn.Module):
    """Layers at each position, with their features in one of the layouts; the weights are the same in all of them."""

    def __init__(self, in_channels: int, width: int, stored: Stored, classes: int = 4) -> None:
        super().__init__()
        self.stored = stored
        self.embed = nn.Conv2d(in_channels, width, 1)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.first, self.norm = (Stem(self.layer(width, width)) for _ in range(2))
        self.head = self.layer(width, classes)

    def layer(self, channels: int, outputs: int) -> nn.Module:
        convolution, linear = nn.Conv2d(channels, outputs, 1), nn.Linear(channels, outputs)
        convolution.weight.data = linear.weight.data[..., None, None]
        convolution.bias = linear.bias
        return convolution if self.stored == "channels_first" else linear

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        x = self.embed(torch.cat([x, *others], 1))
        size = x.shape[2:]
        if self.stored == "channels_last":
            x = x.movedim(1, -1)
        if self.stored in ("tokens", "class_token"):
            x = x.flatten(2).mT
        if self.stored == "class_token":
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        x = self.head(self.norm(self.first(x)))
        if self.stored == "class_token":
            x = x[:, 1:]
        if self.stored in ("tokens", "class_token"):
            x = x.mT.unflatten(2, size)
        return x.movedim(-1, 1) if self.stored == "channels_last" else x
