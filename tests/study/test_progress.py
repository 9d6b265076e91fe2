"""The bar of runs that end in any order."""

from __future__ import annotations

import pytest

from distill.study.progress import progress_bar


def test_an_item_that_ends_moves_the_bar_and_its_error_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("study", 4, 1) as ended:
        ended("first [x]", None, "accuracy 81.5, 3.2 s")
        ended("second", "out of memory", "")
    out = capsys.readouterr().out
    assert "second failed: out of memory" in out
    assert "75%" in out
    assert "first failed" not in out
