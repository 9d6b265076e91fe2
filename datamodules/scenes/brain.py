"""A phantom of a head with a tumour, as four sequences of MRI show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from datamodules.reading.arrays import Bytes, Floats

BACKGROUND, NECROTIC, OEDEMA, ENHANCING = range(4)
"""The classes, as BraTS numbers them since 2023."""

CONTRASTS: Mapping[str, tuple[float, ...]] = {
    # fluid, grey matter, white matter, vessel, old lesion, necrotic core, oedema, enhancing rim
    "t1n": (0.25, 0.55, 0.75, 0.60, 0.62, 0.42, 0.62, 0.52),
    "t1c": (0.25, 0.57, 0.77, 1.15, 0.62, 0.42, 0.62, 1.15),
    "t2w": (1.00, 0.65, 0.45, 0.40, 0.80, 0.88, 0.82, 0.74),
    "t2f": (0.15, 0.60, 0.50, 0.45, 0.90, 0.60, 0.92, 0.78),
}
"""The signal of each tissue by sequence, relative to the brightest normal tissue of T1 and T2; 0 is outside."""

FLUID, GREY, WHITE, VESSEL, OLD_LESION = range(5)

Coordinates = NDArray[np.float64]


class Phantom(NamedTuple):
    """The sequences by name, ``(D, H, W)`` each, 0 outside the brain, and the class of each voxel, ``(D, H, W)``."""

    sequences: dict[str, Floats]
    target: Bytes


def draw_phantom(key: tuple[int, ...], size: int, noise: float) -> Phantom:
    """Draws one head.

    Args:
        key: Non-negative numbers that identify it.
        size: The number of voxels along each side of the cube.
        noise: The standard deviation of the noise; white matter has a signal of 0.75 in T1.
    """
    anatomy, scanner = np.random.default_rng(key).spawn(2)
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    brain, tissue = _brain(grid, anatomy)
    target = _tumour(grid, brain, anatomy)
    labels = np.where(target > BACKGROUND, target + OLD_LESION, tissue)
    sequences = {}
    for name, contrast in CONTRASTS.items():
        # a scanner's voxels average over tissues at their borders
        signal = gaussian_filter(np.where(brain, np.array(contrast)[labels], 0), 0.5)
        signal = signal * (1 + 0.2 * _smooth_field(size, 3, scanner)) * scanner.uniform(0.8, 1.25)
        # the magnitude of a complex signal has Rician noise
        parts = scanner.normal(0, noise, (2, *signal.shape))
        signal = np.hypot(signal + parts[0], parts[1])
        # never 0 inside: 0 says that a voxel is outside the brain
        sequences[name] = np.where(brain, np.maximum(signal, 1e-3), 0).astype(np.float32)
    return Phantom(sequences, np.where(brain, target, BACKGROUND).astype(np.uint8))


def _brain(grid: Coordinates, rng: Generator) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Where the brain is, and its tissues: a bark of grey matter, white matter, ventricles, vessels and old lesions."""
    size = grid.shape[1]
    radii = rng.uniform(0.78, 0.95, 3)
    depth = 1 - _distance(grid, np.zeros(3), radii) + 0.06 * _smooth_field(size, 6, rng)  # 0 at the surface
    brain = depth > 0
    tissue = np.full(brain.shape, WHITE)
    tissue[depth < 0.22 + 0.06 * _smooth_field(size, 6, rng)] = GREY
    tissue[depth < 0.05] = FLUID
    for side in (-1, 1):
        centre = np.array([rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1), side * rng.uniform(0.14, 0.2)])
        tissue[_distance(grid, centre, rng.uniform((0.12, 0.25, 0.07), (0.2, 0.4, 0.12))) < 1] = FLUID
    for kind, count, radius in ((VESSEL, 4, 0.07), (OLD_LESION, 3, 0.1)):
        for _ in range(rng.integers(1, count + 1)):
            centre = rng.uniform(-0.6, 0.6, 3)
            stretch = np.exp(rng.uniform(-0.5, 0.9 if kind == VESSEL else 0.3, 3))
            tissue[(_distance(grid, centre, radius * stretch) < 1) & (depth > 0.05)] = kind
    return brain, tissue


def _tumour(grid: Coordinates, brain: NDArray[np.bool_], rng: Generator) -> NDArray[np.int64]:
    """Oedema around an enhancing rim around a necrotic core; one tumour in five enhances nowhere."""
    size = grid.shape[1]
    centre = rng.normal(size=3)
    centre *= rng.uniform(0.15, 0.5) / np.linalg.norm(centre)
    whole = rng.uniform(0.35, 0.55)
    core = whole * rng.uniform(0.6, 0.8)
    necrotic = core * rng.uniform(0.4, 0.65)
    enhances = rng.random() < 0.8
    radii = np.exp(rng.uniform(-0.15, 0.15, 3))
    distance = _distance(grid, centre, radii)
    target = np.full(brain.shape, BACKGROUND)
    layers = [(OEDEMA, whole, 0.25), (ENHANCING, core, 0.12), (NECROTIC, necrotic, 0.12)]
    for label, radius, roughness in layers if enhances else [layers[0], (NECROTIC, core, 0.12)]:
        edge = radius * (1 + roughness * _smooth_field(size, 5, rng))
        inside = distance < edge if label == OEDEMA else (distance < edge) & (target > BACKGROUND)
        target[inside & brain] = label
    return target


def _distance(grid: Coordinates, centre: NDArray[np.float64], radii: NDArray[np.float64]) -> Coordinates:
    """The distance of each voxel from a centre in units of an ellipsoid's radii: 1 on its surface."""
    offset = (grid - centre[:, None, None, None]) / radii[:, None, None, None]
    distance: Coordinates = np.sqrt((offset**2).sum(0))
    return distance


def _smooth_field(size: int, knots: int, rng: Generator) -> Coordinates:
    """A random field ``(size, size, size)`` that is linear between ``knots`` knots along each side, from -1 to 1."""
    values = rng.uniform(-1, 1, (knots, knots, knots))
    places = np.linspace(0, knots - 1, size)
    weights = np.maximum(1 - np.abs(places[:, None] - np.arange(knots)), 0)  # linear between the two nearest knots
    for _ in range(3):  # each turn interpolates the first axis and puts it last
        values = np.tensordot(values, weights, axes=(0, 1))
    return values
