"""The table of ``docs/methods.md`` is the one that the docstrings make."""

from __future__ import annotations

import re

import distill.methods
from tests import methods_page


def test_the_page_is_up_to_date() -> None:
    assert methods_page.page() == methods_page.PAGE.read_text(), "run python -m tests.methods_page"


def test_every_method_has_an_idea_and_a_paper() -> None:
    of_methods, _ = methods_page.page().split(methods_page.END)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", of_methods, re.MULTILINE)
    assert [name for name, *_ in rows] == distill.methods.__all__
    for name, idea, paper in rows:
        assert len(idea.split()) > 3, name
        assert re.search(r"\(.*\d.*\)", paper) or name == "Combined", name


def test_new_costs_replace_those_of_their_methods_alone() -> None:
    before, after = methods_page.page().splitlines(), methods_page.page({"KD": "7.77"}).splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new for _, new in changed] == [re.sub(r"[^|]+\|$", " 7.77 |", old) for old, _ in changed]
    assert len(changed) == 1
    assert changed[0][1].startswith("| `KD` |")
