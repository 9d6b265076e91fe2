"""Errors that a user can mend have classes of their own, which are Python's as well."""

from __future__ import annotations

from pathlib import Path

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
    UserImportError: ImportError,
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
