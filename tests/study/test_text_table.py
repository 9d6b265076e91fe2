"""A table of text, for the terminal and in Markdown."""

from __future__ import annotations

import io

from rich.console import Console

from distill.study.text_table import TextTable

TABLE = TextTable(["setting", "run", "acc"], [["a", "x|y", "1.0"], ["a", "[b]", "2.0"], ["c", "z", "-"]], labels=[0, 1])


def printed(*, sections: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=60)
    console.print(TABLE.rich("a [title]", sections=sections))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_markdown_aligns_numbers_to_the_right_and_escapes_bars() -> None:
    assert TABLE.markdown(["first", "second"]).splitlines() == [
        "| setting | run | acc |",
        "| --- | --- | ---: |",
        r"| a | x\|y | 1.0 |",
        "| a | [b] | 2.0 |",
        "| c | z | - |",
        "",
        "first",
        "",
        "second",
    ]


def test_cells_in_brackets_are_no_markup() -> None:
    lines = printed(sections=False)
    assert "a [title]" in lines[0]
    assert any("[b]" in line for line in lines)


def test_sections_end_where_the_first_column_changes() -> None:
    assert len(printed(sections=True)) == len(printed(sections=False)) + 1
