"""Sums over an epoch that give the structure of a layer's features; they do not depend on a trainer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distill.distributed import gather
from distill.losses import rbf_log_mean
from distill.losses.parts.normalization import unit_vectors

UNIFORMITY_SIGMA = 2**-0.5
"""The width of the uniformity's kernel; the kernel is then exp(-2 d^2), as in Wang and Isola."""


class Structure(NamedTuple):
    """The structure of a layer.

    ``similarity``: the absolute cosine of each pair of channels over all samples, ``(C, C)``; 0 for a channel that is 0
    in all samples. ``rows``: the features of the samples that were kept, ``(N, C)``.
    """

    similarity: Tensor
    rows: Tensor

    @property
    def correlation(self) -> Tensor:
        """The mean similarity of two different channels; NaN if there is only one channel."""
        channels = len(self.similarity)
        return (self.similarity.sum() - self.similarity.trace()) / (channels * (channels - 1))

    @property
    def uniformity(self) -> Tensor:
        """The log of the mean of exp(-2 d^2) over all pairs of rows, normalised to length 1."""
        directions = unit_vectors(self.rows)
        return rbf_log_mean(directions, directions, sigma=UNIFORMITY_SIGMA)


class LayerStructure:
    """Collects the features of a layer: the sums of products of its channels over all samples, and the first samples.

    Args:
        max_rows: The number of samples to keep.
        device: The device of the sums; it must have float64.
    """

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self.max_rows = max_rows
        self.device = device
        self._products: Tensor | None = None
        self._rows: list[Tensor] = []
        self._kept = 0

    def add(self, features: Tensor) -> None:
        """Adds a batch of features, ``(N, C, *)``, averaged over their positions."""
        means = features.detach().flatten(2).mean(2) if features.ndim > 2 else features.detach()
        rows = means.to(self.device, torch.float64)
        products = rows.mT @ rows
        self._products = products if self._products is None else self._products + products
        if self._kept < self.max_rows:
            self._rows.append(rows[: self.max_rows - self._kept].float())
            self._kept += len(self._rows[-1])

    def compute(self) -> Structure:
        """The structure over all processes, each of which must have added features."""
        assert self._products is not None
        products = gather(self._products[None]).sum(0)
        norms = products.diagonal().sqrt()
        norms = torch.where(norms > 0, norms, 1)
        # rounding takes a cosine beyond 1
        similarity = (products / norms / norms[:, None]).abs().clamp(max=1)
        return Structure(similarity, gather(torch.cat(self._rows)))
