"""Names of classes or outputs in the names of scores."""

from __future__ import annotations

from collections.abc import Sequence

from distill.errors import UserError


def check_names(names: Sequence[str], count: int, what: str = "class_names") -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ValueError: There are not ``count`` names, or two are equal.
    """
    if len(names) != count or len(set(names)) != count:
        raise UserError(f"{what} must be {count} different names, got {', '.join(map(str, names))}")
    return tuple(names)
