"""Errors that a user can mend have classes of their own, which are Python's as well."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

import distill
from distill.errors import (
    USER_ERRORS,
    UserError,
    UserFileNotFoundError,
    UserImportError,
    UserKeyError,
    UserOSError,
    UserTypeError,
)

ROOT = Path(__file__).parents[1]
BUILTINS = {
    UserError: ValueError,
    UserKeyError: KeyError,
    UserTypeError: TypeError,
    UserOSError: OSError,
    UserFileNotFoundError: FileNotFoundError,
    UserImportError: ModuleNotFoundError,
}


def test_each_is_the_class_that_python_has_for_it() -> None:
    assert set(BUILTINS) == set(USER_ERRORS)
    assert all(issubclass(error, builtin) for error, builtin in BUILTINS.items())
    assert distill.UserError is UserError


class Unreadable(Dataset[int]):
    """Has an error in the place of its sample."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


@pytest.mark.parametrize("kind", USER_ERRORS)
def test_each_comes_from_a_process_that_loads_data_as_what_it_is(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="no such thing"):
        list(DataLoader(Unreadable(kind("no such thing")), num_workers=1))


def raised_by_name(tree: ast.Module) -> list[tuple[int, str]]:
    calls: list[Any] = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    calls = [call for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)]
    # a system's number instead of a sentence is what a full disk has
    return [(call.lineno, call.func.id) for call in calls if not isinstance(call.args[0], ast.Attribute)]


def test_no_sentence_is_raised_as_a_bare_error_of_python() -> None:
    """It would be printed with a traceback, as a bug."""
    bare = {builtin.__name__ for builtin in BUILTINS.values()} | {"ImportError"}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for package in ("distill", "datamodules", "callbacks")
        for path in (ROOT / package).rglob("*.py")
        for line, name in raised_by_name(ast.parse(path.read_text()))
        if name in bare
    ]
    assert found == []
