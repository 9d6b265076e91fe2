"""Checks of arguments. Each raises a ValueError with the argument's name, the allowed values, and the value.

``None`` passes every check of numbers: it stands for an omitted argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

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
    for name, value in values.items():
        if value is not None and not least <= value <= most:
            raise UserError(f"{name} must lie in [{least}, {most}], got {value}")


def check_finite(**values: float | None) -> None:
    """Checks that numbers are finite.

    Raises:
        ValueError: A number is infinite or NaN.
    """
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"{name} must be finite, got {value}")
