"""The names of samples, under which their predictions are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from distill.errors import UserError


def names_of_data(data: Any) -> Sequence[str]:
    """The names that the data module gives the samples to predict, by position; empty if it gives none."""
    names: Sequence[str] = getattr(data, "sample_names", ())
    return names


def numbered(position: int) -> str:
    """The name of a sample without a name: ``000012``."""
    return f"{position:06d}"


def positions_of(outputs: Any, batch: Any) -> list[int] | None:
    """The positions of the samples in their data set, from ``index`` of the step or of the batch; ``None`` without."""
    for source in (outputs, batch):
        index = source.get("index") if isinstance(source, Mapping) else None
        if isinstance(index, Tensor):
            return [int(position) for position in index.flatten().tolist()]
    return None


def given_names(outputs: Any, batch: Any, positions: Sequence[int] | None, data: Any) -> list[str] | None:
    """The names of the samples of a batch; ``None`` if nothing names them.

    ``name`` of the step or of the batch, a list of strings, comes first, then ``sample_names`` of the data module at
    the positions.
    """
    for source in (outputs, batch):
        names = source.get("name") if isinstance(source, Mapping) else None
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            return list(names)
    of_data = names_of_data(data)
    if positions is None or not len(of_data):
        return None
    return [str(of_data[position]) for position in positions]


class UniqueNames:
    """Checks that two samples of one process do not share a name, because one would replace the other's files."""

    def __init__(self) -> None:
        self._positions: dict[str, int | None] = {}

    def check(self, name: str, position: int | None) -> None:
        """Raises a ValueError if another sample has the name; a sample that is seen twice is right."""
        if name in self._positions and (position is None or self._positions[name] != position):
            raise UserError(f"two samples have the name {name!r}, so one would replace the other's prediction")
        self._positions[name] = position
