"""Textures of the rendered scenes, computed from formulas."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]
Mask = NDArray[np.bool_]

TEXTURE_SIDE = 128  # texels


class Atlas(NamedTuple):
    """All textures; a texture has values from 0 to 1, minus its mean.

    ``values``: all textures in a row, each with ``TEXTURE_SIDE`` rows of ``TEXTURE_SIDE`` texels; ``starts``: the start
    of each texture in ``values`` by name; ``means``: the mean that was subtracted, by name.
    """

    values: NDArray[np.float32]
    starts: dict[str, int]
    means: dict[str, float]


@cache
def atlas() -> Atlas:
    """Computes the textures; noise and patterns repeat without a seam, and silhouettes fill their square."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:TEXTURE_SIDE, :TEXTURE_SIDE] / TEXTURE_SIDE

    def disc(u: float, v: float, radius: float, stretch: float = 1.0) -> Mask:
        inside: Mask = ((x - u) / stretch) ** 2 + (y - v) ** 2 < radius**2
        return inside

    def bar(left: float, right: float, upper: float, lower: float) -> Mask:
        inside: Mask = (x >= left) & (x < right) & (y >= upper) & (y < lower)
        return inside

    def grains(cells: int) -> Picture:
        """Periodic noise with ``cells`` grains along each side."""
        grid = rng.random((cells, cells))
        place = np.arange(TEXTURE_SIDE) * cells / TEXTURE_SIDE
        low = place.astype(int)
        share = (place - low)[:, None]
        rows = grid[low] * (1 - share) + grid[(low + 1) % cells] * share
        share = share.T
        noise: Picture = rows[:, low] * (1 - share) + rows[:, (low + 1) % cells] * share
        return noise

    def stretched(values: Picture) -> Picture:
        unit: Picture = (values - values.min()) / (values.max() - values.min())
        return unit

    row = np.floor(y * 16)
    mortar = (y * 16 % 1 < 0.15) | ((x * 8 + row / 2) % 1 < 0.08)
    pictures = {
        "plain": stretched(grains(4) + grains(64)),
        "grains": stretched(grains(8) + grains(32) + 2 * grains(64)),
        "leaves": stretched(np.clip(grains(12) + grains(24) + grains(48), 1.0, 2.0)),
        "clouds": stretched(np.clip(grains(3) + grains(6) / 2 + grains(12) / 4, 0.8, 1.3)),
        "bricks": 0.7 * mortar + 0.3 * grains(32),
        "slabs": 0.7 * ((y * 8 % 1 < 0.1) | (x * 8 % 1 < 0.1)) + 0.3 * grains(32),
        "windows": 0.85 * ((np.abs(x * 3 % 1 - 0.5) < 0.22) & (np.abs(y * 3 % 1 - 0.5) < 0.3)) + 0.15 * grains(32),
        "car body": (disc(0.2, 1.0, 0.36, 0.4) | disc(0.8, 1.0, 0.36, 0.4) | (y > 0.85)).astype(float),
        "car cabin": (bar(0.08, 0.48, 0.15, 0.85) | bar(0.52, 0.92, 0.15, 0.85)).astype(float),
        "car": (
            disc(0.22, 0.82, 0.1, 0.7) | disc(0.78, 0.82, 0.1, 0.7) | bar(0.05, 0.95, 0.55, 0.82)
            | bar(0.25, 0.8, 0.3, 0.55)
        ).astype(float),
        "person": (
            disc(0.5, 0.17, 0.08) | bar(0.4, 0.6, 0.27, 0.6) | bar(0.42, 0.49, 0.6, 0.95) | bar(0.51, 0.58, 0.6, 0.95)
        ).astype(float),
        "tree": (disc(0.5, 0.35, 0.28) & (grains(32) > 0.3) | bar(0.46, 0.54, 0.5, 0.95)).astype(float),
        "sign": (bar(0.3, 0.7, 0.1, 0.4) | bar(0.48, 0.52, 0.4, 0.95)).astype(float),
    }  # fmt: skip
    values = np.stack(list(pictures.values())).astype(np.float32)
    means = values.mean((1, 2))
    return Atlas(
        (values - means[:, None, None]).ravel(),
        {name: i * TEXTURE_SIDE**2 for i, name in enumerate(pictures)},
        dict(zip(pictures, means.tolist(), strict=True)),
    )
