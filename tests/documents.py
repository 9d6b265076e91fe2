"""Runs the examples of a page of the documentation as a reader would."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from distill.cli import main

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(python|yaml|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\S+\.(?:py|yaml))\n")


def section(page: str, title: str) -> str:
    """The text of a section of a page, from its heading to the next one of the same level."""
    text = (DOCS / page).read_text()
    assert f"\n## {title}\n" in text
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def run_example(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the files of an example, whose first lines name them, into a folder, and runs its commands there."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    commands = []
    for language, content in BLOCK.findall(text):
        named = FILE_NAME.match(content)
        if language == "bash":
            commands += content.splitlines()
        elif named:
            path = folder / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
    own = {path.stem for path in folder.glob("*.py")}
    try:
        for command in commands:
            _run(shlex.split(command))
    finally:
        for name in own & set(sys.modules):
            del sys.modules[name]


def _run(words: list[str]) -> None:
    python, script, *arguments = words
    assert python == "python", f"a command of the page starts with {python}"
    if script == "train.py":
        main(arguments)
    else:
        runpy.run_path(script, run_name="__main__")
