"""Splits at random that have the classes in the shares of the whole."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from distill.errors import UserError

Positions = NDArray[np.int64]


class SplitPositions(NamedTuple):
    """The positions of the samples to train on, to validate and to test."""

    train: Positions
    val: Positions
    test: Positions


def stratified_order(labels: NDArray[np.integer], rng: Generator) -> Positions:
    """A random order ``(N,)`` whose every beginning has the classes in their shares, to within one sample each.

    Args:
        labels: ``(N,)``, 0 or more.
        rng: Draws the order.
    """
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = np.empty(len(labels))
    share[by_class] = (place + 0.5) / np.repeat(counts, counts)
    return shuffled[np.argsort(share[shuffled], kind="stable")]


def stratified_splits(
    labels: NDArray[np.integer], own_test: int, val_size: int | None, test_size: int | None, rng: Generator
) -> SplitPositions:
    """Splits samples, the last of which may be a test set already.

    Args:
        labels: ``(N,)``, 0 or more.
        own_test: How many samples at the end are the data set's own test set; 0 where it has none.
        val_size: How many of the others to validate on; ``None`` takes a tenth.
        test_size: How many to test on where there is no test set; ``None`` takes a fifth.
        rng: Draws who goes where.

    Raises:
        ValueError: A test size is given where there is a test set, or none is left to train on.
    """
    if own_test and test_size is not None:
        raise UserError(f"test_size {test_size} cannot be chosen where the data have a test set of their own")
    count = len(labels) - own_test
    order = stratified_order(labels[:count], rng)
    val_size = max(1, count // 10) if val_size is None else val_size
    if own_test:
        test, rest, taken = np.arange(count, len(labels)), order, f"val_size {val_size}"
    else:
        test_size = max(1, count // 5) if test_size is None else test_size
        test, rest = order[:test_size], order[test_size:]
        taken = f"val_size {val_size} and test_size {test_size}"
    if len(rest) <= val_size:
        raise UserError(f"{taken} must be less than the {count} images there are, or none is left to train on")
    return SplitPositions(rest[val_size:], rest[:val_size], test)
