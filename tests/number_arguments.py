"""The numbers among the arguments of classes, found in their signatures, so that new ones are tested as well."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

LABELS = {"ignore_index"}
"""Arguments that take any whole number."""

ANY_FINITE = {"fill", "bounds"}
"""Arguments that take any finite number: the value of an input that is left out, and the bounds of features."""

OWN = ("distill", "callbacks", "datamodules")


class Argument(NamedTuple):
    owner: type
    name: str
    annotation: str

    @property
    def required(self) -> set[str]:
        """The arguments that the class needs."""
        parameters = inspect.signature(self.owner).parameters.values()
        return {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}

    def __str__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"


def numbers_of(owner: type) -> dict[str, Argument]:
    """The arguments of a class that take a number, alone or in a list or dictionary, of its bases too."""
    found: dict[str, Argument] = {}
    for base in owner.__mro__:
        if not base.__module__.startswith(OWN) or "__init__" not in vars(base):
            continue
        for name, parameter in inspect.signature(base.__init__).parameters.items():  # type: ignore[misc]
            annotation = str(parameter.annotation)
            if re.search(r"\b(int|float)\b", annotation) and "Literal" not in annotation and name not in LABELS:
                found.setdefault(name, Argument(owner, name, annotation))
    return found


def of_all(*owners: type) -> list[Argument]:
    return [argument for owner in owners for argument in numbers_of(owner).values()]
