"""Checks of arguments. Each raises a ValueError with the argument's name, the allowed values, and the value.

``None`` passes every check of numbers: it stands for an omitted argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

from distill.errors import UserError


def check_option(name: str, value: object, known: Iterable[object]) -> None:
    """Checks that a value is one of the allowed values.

    Args:
        name: The argument's name.
        value: Its value.
        known: All allowed values.

    Raises:
        ValueError: The value is not allowed.
    """
    options = list(known)
    if value not in options:
        raise UserError(f"{name} must be one of {', '.join(map(str, options))}, got {value!r}")


def check_at_least(least: float, /, **values: float | None) -> None:
    """Checks that numbers are finite and at least ``least``.

    Raises:
        ValueError: A number is smaller, infinite or NaN.
    """
    check_finite(**values)
    for name, value in values.items():
        if value is not None and value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")


def check_positive(**values: float | None) -> None:
    """Checks that numbers are finite and above 0.

    Raises:
        ValueError: A number is 0, negative, infinite or NaN.
    """
    check_finite(**values)
    for name, value in values.items():
        if value is not None and value <= 0:
            raise UserError(f"{name} must be positive, got {value}")


def check_weights(hard_weight: float, /, **weights: float | None) -> None:
    """Checks that the weights of a loss's terms are finite, 0 or more, and not all 0 beside a hard loss without weight.

    A weight of 0 leaves its term out.

    Args:
        hard_weight: The weight of the hard loss.
        weights: The weights of the terms; None is a default above 0.

    Raises:
        ValueError: A weight is negative, infinite or NaN, or the loss is empty.
    """
    check_at_least(0, **weights)
    if not hard_weight and not any(weight is None or weight for weight in weights.values()):
        raise UserError(f"hard_weight and {' and '.join(weights)} must not all be 0: the loss would be empty")


def check_share(**values: float | None) -> None:
    """Checks that numbers lie in [0, 1].

    Raises:
        ValueError: A number lies outside, or is NaN.
    """
    check_within(0, 1, **values)


def check_within(least: float, most: float, /, **values: float | None) -> None:
    """Checks that numbers lie in [``least``, ``most``].

    Raises:
        ValueError: A number lies outside, or is NaN.
    """
    for name, value in _numbers(values):
        if not least <= value <= most:
            raise UserError(f"{name} must lie in [{least}, {most}], got {value}")


def check_finite(**values: float | None) -> None:
    """Checks that numbers are finite.

    Raises:
        ValueError: A number is infinite or NaN.
    """
    for name, value in _numbers(values):
        if not math.isfinite(value):
            raise UserError(f"{name} must be finite, got {value}")


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if value is None:
            continue
        if not issubclass(type(value), Real):
            raise UserError(f"{name} must be a number, got {value!r}")
        yield name, value
