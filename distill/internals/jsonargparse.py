"""jsonargparse and argparse: functions that use their private names, each with the version that was read."""

from __future__ import annotations

import inspect
from argparse import Action
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import Signature
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jsonargparse import (
    ArgumentParser,
    DefaultHelpFormatter,
    _actions,
    _paths,
    _postponed_annotations,
    _typehints,
    _util,
)
from torch import nn


class RewordedHelpFormatter(DefaultHelpFormatter):
    """A help formatter whose subclass can change the finished help of an argument (jsonargparse 4.53.0)."""

    def reworded(self, text: str) -> str:
        """The help of an argument, made from the help of jsonargparse."""
        return text

    def _expand_help(self, action: Action) -> str:
        return self.reworded(super()._expand_help(action))


def list_commands(parser: ArgumentParser, commands: Mapping[str, str]) -> None:
    """Adds commands of another parser to the usage and the list in the help of this one (argparse of Python 3.14)."""
    action: Any = parser._subcommands_action
    action.metavar = f"{{{','.join([*action.choices, *commands])}}}"
    action._choices_actions += [action._ChoicesPseudoAction(name, (), text) for name, text in commands.items()]


def commands(parser: ArgumentParser) -> list[str]:
    """The commands that the help of a parser lists (argparse of Python 3.14)."""
    action: Any = parser._subcommands_action
    return [choice.dest for choice in action._choices_actions] if action else []


def argument_names(parser: ArgumentParser) -> list[str]:
    """The full names of the arguments of a parser and of its subcommands' parsers (jsonargparse 4.53.0)."""
    action: Any = parser._subcommands_action
    parsers = (parser, *(action._name_parser_map.values() if action else ()))
    return [argument.dest for one in parsers for argument in one._actions]


class ImportCheck(Protocol):
    """Says which objects may be imported by a path, before and after the import."""

    def before(self, path: str) -> None:
        """Raises an error if the path must not be imported."""

    def after(self, path: str, value: Any) -> None:
        """Raises an error if the imported object must not be used."""

    def failed(self, path: str, error: Exception) -> None:
        """Called with the error of an import."""


_check: ContextVar[ImportCheck | None] = ContextVar("check", default=None)
_import_object: Callable[..., Any] = _util.import_object


def _checked_import(name: str, *args: Any, **kwargs: Any) -> Any:
    check = _check.get()
    if check is None or not isinstance(name, str) or "." not in name:
        return _import_object(name, *args, **kwargs)
    check.before(name)
    try:
        value = _import_object(name, *args, **kwargs)
    except Exception as error:
        check.failed(name, error)
        raise
    check.after(name, value)
    return value


# all values that name an object pass through these two names (jsonargparse 4.53.0)
for _module in (_typehints, _actions):
    vars(_module)["import_object"] = _checked_import


@contextmanager
def imports_checked(check: ImportCheck) -> Iterator[None]:
    """Within it, jsonargparse imports only what a check allows (4.53.0); parsers outside of it are unchanged."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


_return_type: Callable[..., Any] = _postponed_annotations.get_return_type


def _network_or_return_type(function: Any, *args: Any) -> Any:
    """The type that a function returns; a from_pretrained says it with a type variable or not at all."""
    found = _return_type(function, *args)
    says_it = inspect.isclass(found) and found is not Signature.empty
    if says_it or getattr(function, "__name__", "") != "from_pretrained":
        return found
    owner = getattr(function, "__self__", None)
    return owner if isinstance(found, TypeVar) else nn.Module


# the functions that compare a function with the type of an argument import this name when they run (4.53.0)
vars(_postponed_annotations)["get_return_type"] = _network_or_return_type


def folder_being_read() -> Path | None:
    """The folder of the configuration file that a parser reads now, if it reads one (4.53.0)."""
    folder = _paths._current_path_dir.get()
    return Path(folder) if folder and "://" not in folder else None
