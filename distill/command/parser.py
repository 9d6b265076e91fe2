"""The parser of the command line: its help, and errors that fit on one line."""

from __future__ import annotations

import os
import re
from argparse import Action
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from distill.command.errors import ConfigurationError, one_line

# what jsonargparse says of a name that is no argument's
UNKNOWN = re.compile(r"(?:Option '|Subcommand '\w+' does not accept option '|unrecognized arguments: --)([\w.]+)")

# classes that an argument takes are all named up to this number; of networks, torch and timm have hundreds
FEW = 20


class HelpFormatter(DefaultHelpFormatter):
    """Names of the classes that an argument takes only this project's, where they are many."""

    def _expand_help(self, action: Action) -> str:
        return re.sub(r"(?<=known subclasses: )[^)]+", _fewer, super()._expand_help(action))


class Parser(LightningArgumentParser):
    """Says in one line what is wrong with a configuration; all details with ``JSONARGPARSE_DEBUG=true``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # or the typo --trainer.max_epoch would pass for an abbreviation
        super().__init__(*args, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **settings: Any
    ) -> Any:
        """Parses; the null of an argument of a nested class, which jsonargparse hands on as ``--key=None``, is null."""
        if args is not None:
            args = [re.sub(r"^(--[^=]+)=None$", r"\1=null", arg) for arg in args]
        return super().parse_args(args, *more, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a :class:`ConfigurationError`."""
        if os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        raise ConfigurationError(one_line(message + self._suggestion(message))) from None

    def _suggestion(self, message: str) -> str:
        """The argument whose name is most like an unknown one, where one is."""
        if (unknown := UNKNOWN.match(message)) is None:
            return ""
        commands = self._subcommands_action._name_parser_map.values() if self._subcommands_action else ()
        known = [action.dest.rpartition(".") for parser in (self, *commands) for action in parser._actions]
        group, dot, name = unknown[1].rpartition(".")
        names = {name for of, _, name in known if of == group and name != "help"}
        if not names:  # the group is the typo
            group, dot, name = "", "", unknown[1].partition(".")[0]
            names = {"".join(parts).partition(".")[0] for parts in known}
        alike = get_close_matches(name, names, n=1)
        return f", did you mean {group}{dot}{alike[0]}?" if alike else ""


def _fewer(names: re.Match[str]) -> str:
    every = names[0].split(", ")
    ours = [name for name in every if re.fullmatch(r"(distill|datamodules|callbacks)(\.\w+)?\.\w+", name)]
    if len(every) <= FEW or not ours:
        return names[0]
    return f"{', '.join(ours)}, and any other by its import path"
