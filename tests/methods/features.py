"""Random features of layers by name."""

from __future__ import annotations

import torch
from torch import Tensor


def features(seed: int, *shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """One feature of each shape, float64, under the names a, b, c, ..."""
    generator = torch.Generator().manual_seed(seed)
    return {
        chr(ord("a") + index): torch.randn(shape, generator=generator, dtype=torch.float64)
        for index, shape in enumerate(shapes)
    }
