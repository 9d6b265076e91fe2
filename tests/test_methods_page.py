"""``docs/methods.md`` has a row for every method."""

from __future__ import annotations

import re
from pathlib import Path

import distill.methods

ROWS = re.findall(r"^\| `(\w+)` .*$", (Path(__file__).parents[1] / "docs" / "methods.md").read_text(), re.MULTILINE)


def test_every_method_has_one_row_and_every_row_is_a_method() -> None:
    assert sorted(ROWS) == sorted(distill.methods.__all__)
