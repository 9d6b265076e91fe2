"""Random splits of samples: stratified by class, by shares, or by groups of samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from distill.checks import check_within
from distill.errors import UserError

T = TypeVar("T")

Positions = NDArray[np.int64]


class SplitPositions(NamedTuple):
    """The positions of the samples of the three splits."""

    train: Positions
    val: Positions
    test: Positions


def stratified_order(labels: NDArray[np.integer], rng: Generator) -> Positions:
    """A random order ``(N,)``; its first n samples hold each class in its share of all samples, to within one sample.

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
    """Splits samples at random; each split holds the classes in their shares of all samples.

    Args:
        labels: ``(N,)``, 0 or more.
        own_test: The number of samples at the end that are the data set's own test set; 0 where it has none.
        val_size: The number of the other samples to validate on; ``None`` takes a tenth.
        test_size: The number to test on where there is no test set; ``None`` takes a fifth.
        rng: Draws the splits.

    Raises:
        ValueError: A test size is given where there is a test set, or no sample is left to train on.
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


def split_by_shares(items: Sequence[T], shares: Sequence[int], seed: int, count: int | None = None) -> list[list[T]]:
    """Splits items at random into parts of given shares; each part keeps the items' order.

    Args:
        items: In an order that does not depend on the file system.
        shares: The parts' shares, as 7 and 3.
        seed: Fixes the split.
        count: The number of items to draw first; ``None`` takes all.

    Raises:
        ValueError: There are fewer than ``count`` items, or a part would be empty.
    """
    if count is not None and count > len(items):
        raise UserError(f"{count} images cannot be drawn from the {len(items)} there are; None takes all")
    drawn = np.random.default_rng(seed).permutation(len(items))[:count]
    ends = len(drawn) * np.cumsum(shares)[:-1] // sum(shares)
    parts = np.split(drawn, ends)
    if not all(map(len, parts)):
        ratio = ":".join(map(str, shares))
        raise UserError(f"a split {ratio} leaves a part empty: there are too few images, {len(drawn)}")
    return [[items[position] for position in sorted(part)] for part in parts]


def held_out_groups(groups: Iterable[str], count: int, seed: int, name: str, kind: str) -> set[str]:
    """Draws groups of samples, such as drives or cities, to validate on.

    Args:
        groups: The names of all training groups.
        count: How many to draw.
        seed: Fixes the choice.
        name: The argument that gives the count.
        kind: What the groups are, in the plural.

    Raises:
        ValueError: No group is left to train on.
    """
    ordered = sorted(groups)
    if len(ordered) <= count:
        raise UserError(f"{name} {count} must be less than the {len(ordered)} {kind}, or none is left to train on")
    return set(np.random.default_rng(seed).permutation(ordered)[:count].tolist())


def check_groups(name: str, numbers: Sequence[int], kind: str, least: int, most: int) -> None:
    """Checks the numbers of the groups of samples in a split, such as actors or sequences.

    Args:
        name: The argument that gives them.
        numbers: The groups' numbers.
        kind: What the groups are, in the plural.
        least: The smallest number that a group has.
        most: The largest.

    Raises:
        ValueError: There is no number, one is given twice, or one is out of range.
    """
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"{name} must be one or more different {kind}, got {list(numbers)}")
    for number in numbers:
        check_within(least, most, **{name: number})


def check_disjoint(kind: str, **splits: Sequence[int]) -> None:
    """Checks that two splits share no group.

    Args:
        kind: What a group is, in the singular.
        **splits: The groups' numbers by the name of the argument that gives them.

    Raises:
        ValueError: Names the first group that is in both.
    """
    (first, numbers), (second, others) = splits.items()
    shared = set(numbers) & set(others)
    if shared:
        raise UserError(f"{kind} {min(shared)} is in {first} and in {second}")
