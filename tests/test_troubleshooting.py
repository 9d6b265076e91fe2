"""The page of troubleshooting quotes what the sources say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
QUOTED = re.findall(r"^\| `(.+?)` \|", PAGE, re.MULTILINE)


def text_of(node: ast.AST) -> str | None:
    """A text of a source, with an ellipsis for each value in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    return None


@pytest.fixture(scope="module")
def texts() -> list[str]:
    paths = [path for folder in ("distill", "datamodules", "callbacks") for path in (ROOT / folder).rglob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    return [text for text in map(text_of, nodes) if text]


def test_every_sentence_of_the_page_is_one_of_the_sources(texts: list[str]) -> None:
    assert len(QUOTED) > 40
    parts = {sentence: re.sub(r"…\.*$", "", sentence) for sentence in QUOTED}  # the rest may be a value or more text
    assert [sentence for sentence, part in parts.items() if not any(part in text for text in texts)] == []


def test_no_sentence_is_quoted_twice() -> None:
    assert len(set(QUOTED)) == len(QUOTED)
