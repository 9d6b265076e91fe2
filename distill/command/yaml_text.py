"""Reads the text of configuration files, within bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from lightning_utilities.core.enums import StrEnum

from distill.allowed import remember_folder
from distill.internals.jsonargparse import folder_being_read

MAX_VALUES = 100_000
"""The most keys and values of one file, counted as often as its aliases repeat them; large studies have 3,000."""

MAX_LEVELS = 100

MAX_CHARACTERS = 5_000_000

MAX_FILES = 200
"""The most files that one file may include, directly and through others."""

_files_read: ContextVar[int] = ContextVar("files_read", default=0)
_load = get_loader("yaml")
_file: ContextVar[str | None] = ContextVar("file", default=None)


@contextmanager
def named(file: str) -> Iterator[None]:
    """Says which file is read, for the messages of :func:`load_yaml`."""
    token = _file.set(file)
    try:
        yield
    finally:
        _file.reset(token)


def load_yaml(text: str) -> Any:
    """The content of a YAML text, as jsonargparse reads it.

    Raises:
        YAMLError: The text is not valid YAML, says that it is larger than any configuration, or has tags of objects.
    """
    if (folder := folder_being_read()) is not None:
        remember_folder(folder)
    try:
        if len(text) > MAX_CHARACTERS:
            raise yaml.YAMLError(f"it has more than {MAX_CHARACTERS} characters")
        if re.search(r"&\S[\s\S]*\*\S", text) or _may_be_deep(text):
            _count(yaml.compose(text, yaml.SafeLoader), {})
        return _load(text)
    except RecursionError:
        raise yaml.YAMLError(_described(f"it is nested more than {MAX_LEVELS} levels deep")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise yaml.YAMLError(_described(f"{place}{error.problem or error.context}")) from None
    except yaml.YAMLError as error:
        raise yaml.YAMLError(_described(str(error))) from None


def start_counting() -> None:
    """Starts to count the files that are read one because of another."""
    _files_read.set(0)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, as :func:`load_yaml` reads it; remembers the file's folder.

    Raises:
        YAMLError: As in :func:`load_yaml`; the message does not name the file.
        UnicodeDecodeError: The file is no text.
    """
    remember_folder(path.parent)
    _files_read.set(_files_read.get() + 1)
    if _files_read.get() > MAX_FILES:
        raise yaml.YAMLError(f"more than {MAX_FILES} files are included")
    return load_yaml(path.read_text(encoding="utf-8"))


def place_of(key: str, files: Mapping[str, Path]) -> str:
    """The file and the line of a key, as the beginning of a sentence; empty if no file has it.

    Args:
        key: The key with those that lead to it, such as ``trainer.max_epochs``, or alone if it holds spaces.
        files: Files that were read without an error, by the names that the user gave them.
    """
    for name, file in files.items():
        for path, node in _keys(yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)):
            if key == path or (" " in key and key == node.value):
                return f"{name}, line {node.start_mark.line + 1}: "
    return ""


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, yaml.Node]]:
    """The keys of nested mappings, each with its path."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{prefix}{key.value}", key
            yield from _keys(value, f"{prefix}{key.value}.")


def _may_be_deep(text: str) -> bool:
    indented = re.search(rf"^[ -]{{{MAX_LEVELS},}}", text, re.MULTILINE)
    return text.count("[") + text.count("{") > MAX_LEVELS or indented is not None


def _count(node: yaml.Node | None, known: dict[int, int], levels: int = 0) -> int:
    """The number of values below a node, without following an alias twice."""
    if node is None:
        return 0
    if levels > MAX_LEVELS:
        raise yaml.YAMLError(f"it is nested more than {MAX_LEVELS} levels deep, or an alias holds itself")
    if id(node) not in known:
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [part for pair in below for part in pair] if isinstance(node, yaml.MappingNode) else below
        known[id(node)] = 1 + sum(_count(child, known, levels + 1) for child in children)
        if known[id(node)] > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES} values")
    return known[id(node)]


def _described(problem: str) -> str:
    file = _file.get()
    return f"{file}: {problem}" if file else problem


# the default of an argument, such as that of Lightning's Timer, which fit.yaml keeps as its text
yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(value.value))
set_loader("yaml", load_yaml, (yaml.YAMLError,))
