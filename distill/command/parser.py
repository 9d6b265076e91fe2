"""The parser of the command line: shortens its help, and prints an error on one line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from distill.command.errors import ConfigurationError, one_line
from distill.internals.jsonargparse import RewordedHelpFormatter, argument_names
from distill.internals.messages import null_as_given, reword_subclasses, unknown_argument

# the help lists all classes that an argument accepts up to this number; torch and timm have hundreds of networks
MAX_CLASSES_LISTED = 20


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

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **settings: Any
    ) -> Any:
        """Parses the arguments; a null for an argument of a nested class stays null."""
        return super().parse_args(None if args is None else [null_as_given(arg) for arg in args], *more, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a :class:`ConfigurationError`."""
        if os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        raise ConfigurationError(one_line(message + self._suggestion(message))) from None

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


def _shortened(classes: list[str]) -> str:
    of_project = [name for name in classes if re.fullmatch(r"(distill|datamodules|callbacks)(\.\w+)?\.\w+", name)]
    if len(classes) <= MAX_CLASSES_LISTED or not of_project:
        return ", ".join(classes)
    return f"{', '.join(of_project)}, and any other by its import path"
