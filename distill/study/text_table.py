"""A table of text, as Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class TextTable:
    """Headings and lines of cells; ``rich.box.MARKDOWN`` neither escapes a ``|`` in a cell nor aligns columns.

    Args:
        headings: One a column.
        lines: One a row of the table, each with a cell a column.
        labels: The columns that are labels and aligned to the left; the others are numbers.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    labels: Sequence[int]

    def markdown(self, notes: Sequence[str] = ()) -> str:
        """The table, and each note as a paragraph below it."""
        rules = ["---" if column in self.labels else "---:" for column in range(len(self.headings))]
        escaped = [[cell.replace("|", r"\|") for cell in cells] for cells in [self.headings, rules, *self.lines]]
        table = "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)
        return table + "".join(f"\n{note}\n" for note in notes)

    def rich(self, title: str, *, sections: bool = False) -> Table:
        """The table for a terminal, with a rule wherever the first column changes if it has ``sections``."""
        table = Table(title=escape(title))
        for column, heading in enumerate(self.headings):
            table.add_column(escape(heading), justify="left" if column in self.labels else "right")
        for line, following in zip(self.lines, [*self.lines[1:], None], strict=True):
            ends = sections and (following is None or following[0] != line[0])
            table.add_row(*map(escape, line), end_section=ends)
        return table
