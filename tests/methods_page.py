"""Writes the tables of ``docs/methods.md``: ``python -m tests.methods_page``.

The idea of a method is the first line of its module, its paper the first line of its class. The paragraphs of the class
that begin with ``Needs:`` and ``Trains:`` say what the method needs of the user, and what it trains beside the student.
The last column is measured, and kept as it is. The table of kinds of features is that of ``tests/methods/kinds.py``.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import distill.methods
from distill.atomic import atomic_write
from tests.methods import kinds

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
START, END = "<!-- methods -->\n", "<!-- end -->\n"
START_OF_KINDS, END_OF_KINDS = "<!-- kinds -->\n", "<!-- end of kinds -->\n"
HEAD = (
    "| method | idea | paper | needs | trained beside the student | cost / KD |",
    "| --- | --- | --- | --- | --- | ---: |",
)


def page(costs: Mapping[str, str] | None = None) -> str:
    """The whole page with its tables up to date.

    Args:
        costs: Newly measured ones by method, which replace those on the page.
    """
    before, rest = PAGE.read_text().split(START)
    table, after = rest.split(END)
    measured = dict(re.findall(r"^\| `(\w+)` .*\| ([^|]+) \|$", table, re.MULTILINE)) | dict(costs or {})
    rows = [_row(name, measured.get(name, "-")) for name in distill.methods.__all__]
    between, rest = after.split(START_OF_KINDS)
    _, after = rest.split(END_OF_KINDS)
    of_methods = f"{START}\n" + "\n".join([*HEAD, *rows]) + f"\n\n{END}"
    of_kinds = f"{START_OF_KINDS}\n" + "\n".join(kinds.table()) + f"\n\n{END_OF_KINDS}"
    return f"{before}{of_methods}{between}{of_kinds}{after}"


def write(costs: Mapping[str, str] | None = None) -> None:
    """Writes the page; see :func:`page`."""
    text = page(costs)
    with atomic_write(PAGE) as draft:
        draft.write_text(text)


def _row(name: str, cost: str) -> str:
    method = getattr(distill.methods, name)
    idea = (inspect.getdoc(sys.modules[method.__module__]) or "").splitlines()[0]
    paper, *paragraphs = (" ".join(part.split()) for part in (inspect.getdoc(method) or "").split("\n\n"))
    facts = {
        key: text.removesuffix(".")
        for key, separator, text in (part.partition(": ") for part in paragraphs)
        if separator and key in ("Needs", "Trains")
    }
    cells = [idea.partition(": ")[2].removesuffix("."), paper.removesuffix(".")]
    cells += [facts.get(key, "-") for key in ("Needs", "Trains")]
    return f"| `{name}` | {' | '.join(cell.replace('``', '`') for cell in cells)} | {cost} |"


if __name__ == "__main__":
    write()
