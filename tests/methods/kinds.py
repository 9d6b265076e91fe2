"""Which kinds of features each method takes, and what it compares of them; ``test_kinds.py`` proves every entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["vector", "sequence", "map", "volume"]
"""Features with 0 to 3 spatial dims."""

Compared = Literal["positions", "means", "each its own", "refused"]

Pair = tuple[Kind, Kind]
"""The kinds of the teacher's and the student's feature."""

PAIRS: dict[str, Sequence[Pair]] = {
    "vectors": [("vector", "vector")],
    "maps of as many dims": [("sequence", "sequence"), ("map", "map"), ("volume", "volume")],
    "3 and 2 dims": [("volume", "map"), ("map", "volume")],
    "vector and map": [("vector", "map"), ("map", "vector"), ("vector", "sequence"), ("volume", "vector")],
    "sequence and map": [("map", "sequence"), ("sequence", "volume")],
}
"""The columns of the table, and the pairs of kinds that each stands for."""


class Row(NamedTuple):
    """What a method compares, in the order of ``PAIRS``."""

    vectors: Literal["yes", "refused"]
    same: Compared
    volume_and_map: Compared
    vector_and_map: Compared
    sequence_and_map: Compared


BY_POSITION = Row("yes", "positions", "positions", "means", "means")
ON_POSITIONS_ONLY = Row("refused", "positions", "positions", "refused", "refused")
RELATIONS = Row("yes", "each its own", "each its own", "each its own", "each its own")
MEANS = Row("yes", "means", "means", "means", "means")
WITHOUT_ORDER = Row("yes", "each its own", "each its own", "means", "means")

METHODS: dict[str, Row] = {
    "AFKD": WITHOUT_ORDER,
    "ARFD": WITHOUT_ORDER,
    "AT": ON_POSITIONS_ONLY,
    "CC": MEANS,
    "CRD": MEANS,
    "CWD": ON_POSITIONS_ONLY,
    "FSP": Row("refused", "each its own", "each its own", "refused", "each its own"),
    "FT": BY_POSITION,
    "LIX": WITHOUT_ORDER,
    "NST": ON_POSITIONS_ONLY,
    "PKT": RELATIONS,
    "RKD": RELATIONS,
    "SP": RELATIONS,
    "VID": BY_POSITION,
    "DimensionalStructure": BY_POSITION,
    "FitNet": BY_POSITION,
    "SemCKD": BY_POSITION,
    "TwoDPASS": BY_POSITION,
}


def table() -> list[str]:
    """The table as lines of Markdown."""
    head = ["method", *PAIRS]
    rows = [[f"`{method}`", *row] for method, row in METHODS.items()]
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
