"""The parser of the command line: shortens its help, and prints an error on one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from distill.allowed import Refusals, check_arguments, current_command
from distill.command.errors import ConfigurationError, one_line
from distill.command.yaml_text import named, place_of
from distill.errors import UserError
from distill.internals.jsonargparse import RewordedHelpFormatter, argument_names, commands, imports_checked
from distill.internals.messages import (
    key_of_a_file,
    null_as_given,
    of_a_class,
    reword_subclasses,
    unknown_argument,
    unknown_command,
    wrong_value,
)

# the help lists all classes that an argument accepts up to this number; torch and timm have hundreds of networks
MAX_CLASSES_LISTED = 20

TAKE_CLASSES = frozenset(
    (
        *("model", "network", "student", "teacher", "task", "weighting", "optimizer", "lr_scheduler", "data"),
        *("callbacks", "logger", "profiler", "strategy", "accelerator", "plugins", "class_path"),
    )
)
"""The last words of the options whose value is a class, and so names a module that the user trusts."""

_NONE = Refusals()
_refusals: ContextVar[Refusals] = ContextVar("refusals", default=_NONE)
_files: ContextVar[dict[str, Path]] = ContextVar("files", default={})  # noqa: B039  never changed in place
"""The files that the outermost parser has read so far: the absolute path by the name that the user gave."""


class HelpFormatter(RewordedHelpFormatter):
    """Lists only this project's classes for an argument that accepts many classes."""

    def reworded(self, text: str) -> str:
        """The help with a shorter list of classes."""
        return reword_subclasses(text, _shortened)


class Parser(LightningArgumentParser):
    """Prints one line about a wrong configuration, or all details with ``JSONARGPARSE_DEBUG=true``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # with abbreviations allowed, the typo --trainer.max_epoch would be accepted
        super().__init__(*args, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)
        self._takes_options_of = ""

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, **settings: Any) -> Any:
        """Adds the arguments of a class; remembers its name for the messages about its options."""
        if nested_key is None:
            self._takes_options_of = getattr(theclass, "__name__", "")
        return super().add_class_arguments(theclass, nested_key, **settings)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **settings: Any
    ) -> Any:
        """Parses the arguments; a null for an argument of a nested class stays null."""
        given = None if args is None else [null_as_given(arg) for arg in args]
        with self._checked() as refusals:
            return self._without_refused(super().parse_args(given, *more, **settings), refusals)

    def parse_object(self, *args: Any, **settings: Any) -> Any:
        """Parses a configuration, such as that of a checkpoint."""
        with self._checked() as refusals:
            return self._without_refused(super().parse_object(*args, **settings), refusals)

    def parse_path(self, path: Any, *args: Any, **settings: Any) -> Any:
        """Parses a file; names it if it is not valid YAML."""
        # the parser changes the folder while it reads
        _files.set(_files.get() | {str(path): Path(str(path)).absolute()})
        with named(str(path)):
            return super().parse_path(path, *args, **settings)

    def instantiate_classes(self, *args: Any, **settings: Any) -> Any:
        """Creates the objects that a configuration names."""
        with self._checked():
            return super().instantiate_classes(*args, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a :class:`ConfigurationError`."""
        if os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        refused = [sentence for path, sentence in _refusals.get().sentences.items() if path in message]
        if refused:
            raise ConfigurationError(": ".join(filter(None, (".".join(wrong_value(message).keys), refused[0]))))
        taker = f" by {self._takes_options_of}" if self._takes_options_of and of_a_class(message) else ""
        if (command := unknown_command(message)) is not None:
            known = ", ".join(commands(self))
            raise ConfigurationError(
                f"there is no command {command!r}; there are {known}" if command else f"give a command, one of {known}"
            )
        place = place_of(key, _files.get()) if (key := key_of_a_file(message)) else ""
        raise ConfigurationError(place + one_line(message + taker + self._suggestion(message))) from None

    @contextmanager
    def _checked(self) -> Iterator[Refusals]:
        """Lets a configuration name only what :mod:`distill.allowed` allows; the parsers within one share a list."""
        current_command()  # starts here if a program parses without main()
        outer = _refusals.get()
        if outer is _NONE:
            _files.set({})
        refusals = Refusals() if outer is _NONE else outer
        token = _refusals.set(refusals)
        try:
            with imports_checked(refusals):
                yield refusals
        finally:
            _refusals.reset(token)

    def _without_refused(self, config: Any, refusals: Refusals) -> Any:
        """A configuration, unless an argument of any type holds a class that was refused, or would run code."""
        content = config.clone().as_dict()
        if refusals.sentences and (sentence := refusals.first_within(content)):
            raise ConfigurationError(sentence)
        try:
            check_arguments(content)
        except UserError as error:
            raise ConfigurationError(str(error)) from None
        return config

    def _suggestion(self, message: str) -> str:
        """The known argument that is most similar to the unknown one of the message; empty if there is none."""
        if (unknown := unknown_argument(message)) is None:
            return ""
        known = [name.rpartition(".") for name in argument_names(self)]
        group, dot, name = unknown.rpartition(".")
        names = {name for of, _, name in known if of == group and name != "help"}
        if not names:  # the group is the typo
            group, dot, name = "", "", unknown.partition(".")[0]
            names = {"".join(parts).partition(".")[0] for parts in known}
        similar = get_close_matches(name, names, n=1)
        return f", did you mean {group}{dot}{similar[0]}?" if similar else ""


def trusted_modules(arguments: Sequence[str]) -> tuple[list[str], set[str]]:
    """The arguments without ``--trust MODULE``, and the top-level modules that the user names as code.

    These are the values of ``--trust``, and of the options that take a class, such as ``--model own.KD``. A name or a
    path may look like a class, so other options name no code.

    Raises:
        ConfigurationError: ``--trust`` has no module.
    """
    kept: list[str] = []
    named = set()
    remaining = iter(arguments)
    last = ""
    for argument in remaining:
        option, equals, text = argument.partition("=")
        if option == "--trust":
            text = text or next(remaining, "")
            if not re.fullmatch(r"[A-Za-z_][\w.]*", text):
                raise ConfigurationError(f"--trust takes the name of a module, such as my_method, got {text!r}")
            named.add(text.partition(".")[0])
            continue
        kept.append(argument)
        if not argument.startswith("--"):
            option, text = last, argument
        last = "" if equals else option
        takes_class = option.rstrip("+").lstrip("-").rpartition(".")[2] in TAKE_CLASSES
        if takes_class and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", text) and not Path(text).exists():
            named.add(text.partition(".")[0])
        named.update(re.findall(r"class_path[\"']?\s*:\s*[\"']?([A-Za-z_]\w*)\.", text))
    return kept, named


def _shortened(classes: list[str]) -> str:
    of_project = [name for name in classes if re.fullmatch(r"(distill|datamodules|callbacks)(\.\w+)?\.\w+", name)]
    if len(classes) <= MAX_CLASSES_LISTED or not of_project:
        return ", ".join(classes)
    return f"{', '.join(of_project)}, and any other by its import path"
