"""Divergences of two models from sums over single samples, and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from distill.metrics import nontarget_jsd, target_jsd

MEASURES = ("ncjsd", "tcjsd", "cmd")
MOMENTS = 5
MIDDLE = 0.5  # of the probabilities, around which powers cancel least
PART = 2**24  # numbers of one part of the resamples

Floats = NDArray[np.float64]


class Sums(NamedTuple):
    """The sums of each sample whose means are the divergences; an image is one sample. See :func:`sums_of`."""

    counted: Floats  # (N,) positions with a label
    ncjsd: Floats  # (N,) the sum over them, in nats
    tcjsd: Floats  # (N,)
    teacher: Floats  # (N, K, C) the sums of the first K powers of p - 1/2
    student: Floats


def sums_of(student: Tensor, teacher: Tensor, target: Tensor, ignore_index: int = 255) -> Sums:
    """The sums of the samples of a batch.

    Args:
        student: The student's logits, ``(N, C, *)``.
        teacher: The teacher's, of the same shape.
        target: Class indices, ``(N, *)``.
        ignore_index: Positions with this target do not count.
    """
    counted = target != ignore_index
    jsds = [jsd(student, teacher, target, ignore_index=ignore_index) for jsd in (nontarget_jsd, target_jsd)]
    values = [tensor.double().flatten(1).sum(1) if tensor.ndim > 1 else tensor.double() for tensor in (counted, *jsds)]
    powers = [_power_sums(logits, counted) for logits in (teacher, student)]
    return Sums(*(tensor.cpu().numpy() for tensor in (*values, *powers)))


def joined(batches: list[Sums]) -> Sums:
    """The sums of all batches."""
    return Sums(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def divergences(sums: Sums, weights: Floats) -> Floats:
    """NCJSD, TCJSD and the CMD of the output probabilities; each sample counts as often as its weight says.

    Args:
        sums: Of N samples.
        weights: ``(B, N)``.

    Returns:
        ``(B, 3)``, in the order of ``MEASURES``; the CMD is that of :class:`~distill.metrics.CentralMomentDiscrepancy`.
    """
    counted = weights @ sums.counted
    cmd = _cmd(*(_central(weights, powers, counted) for powers in (sums.teacher, sums.student)))
    return np.stack([weights @ sums.ncjsd / counted, weights @ sums.tcjsd / counted, cmd], 1)


def resampled(sums: Sums, resamples: int, seed: int) -> Floats:
    """The divergences of samples drawn with replacement, ``(resamples, 3)``.

    The draws depend only on the seed and the number of samples, so the draws of two teachers on the same samples are
    the same.
    """
    count = len(sums.counted)
    rng = np.random.default_rng(seed)
    parts = []
    for size in _parts(resamples, max(1, PART // count)):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        parts.append(divergences(sums, weights))
    return np.concatenate(parts)


def interval(estimate: float, replicates: Floats, confidence: float) -> tuple[float, float]:
    """The bias-corrected percentile interval of a bootstrap.

    A distance such as the CMD is larger in most resamples than in the sample itself. The share of resamples below the
    estimate says how far down the percentiles are taken. ``scipy.stats.bootstrap`` has no such interval.

    Args:
        estimate: The value of the sample itself.
        replicates: The values of the resamples, ``(B,)``.
        confidence: The level, in (0, 1).

    Source: Efron, "Nonparametric standard errors and confidence intervals", Canadian Journal of Statistics 9, 1981.
    """
    below = (np.sum(replicates < estimate) + np.sum(replicates == estimate) / 2) / len(replicates)
    bias = ndtri(np.clip(below, 1 / (len(replicates) + 1), len(replicates) / (len(replicates) + 1)))
    tails = ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(replicates, ndtr(2 * bias + tails))
    return float(low), float(high)


def _power_sums(logits: Tensor, counted: Tensor) -> Tensor:
    """``(N, K, C)``, over the positions that count."""
    shifted = (
        (logits.double().softmax(1) - MIDDLE).flatten(2)
        if logits.ndim > 2
        else logits.double().softmax(1)[..., None] - MIDDLE
    )
    where = counted.reshape(len(counted), 1, -1)
    return torch.stack([(shifted**k * where).sum(2) for k in range(1, MOMENTS + 1)], 1)


def _central(weights: Floats, powers: Floats, counted: Floats) -> Floats:
    """The mean and the central moments of order 2 to K, ``(B, K, C)``."""
    samples, _, classes = powers.shape
    raw = (weights @ powers.reshape(samples, -1)).reshape(-1, MOMENTS, classes) / counted[:, None, None]
    raw = np.concatenate([np.ones_like(raw[:, :1]), raw], 1)
    mean = raw[:, 1]
    central = [
        sum((comb(k, j) * raw[:, j] * (-mean) ** (k - j) for j in range(k + 1)), np.zeros_like(mean))
        for k in range(2, MOMENTS + 1)
    ]
    return np.stack([mean, *central], 1)


def _cmd(a: Floats, b: Floats) -> Floats:
    norms: Floats = np.linalg.norm(a - b, axis=2).sum(1)
    return norms


def _parts(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)
