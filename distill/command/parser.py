"""The parser of the command line: its help, and errors that fit on one line."""

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

# classes that an argument takes are all named up to this number; of networks, torch and timm have hundreds
FEW = 20


class HelpFormatter(RewordedHelpFormatter):
    """Names of the classes that an argument takes only this project's, where they are many."""

    def reworded(self, text: str) -> str:
        """The help with fewer names."""
        return reword_subclasses(text, _fewer)


class Parser(LightningArgumentParser):
    """Says in one line what is wrong with a configuration; all details with ``JSONARGPARSE_DEBUG=true``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # or the typo --trainer.max_epoch would pass for an abbreviation
        super().__init__(*args, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **settings: Any
    ) -> Any:
        """Parses; the null of an argument of a nested class stays null."""
        return super().parse_args(None if args is None else [null_as_given(arg) for arg in args], *more, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a :class:`ConfigurationError`."""
        if os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        raise ConfigurationError(one_line(message + self._suggestion(message))) from None

    def _suggestion(self, message: str) -> str:
        """The argument whose name is most like an unknown one, where one is."""
        if (unknown := unknown_argument(message)) is None:
            return ""
        known = [name.rpartition(".") for name in argument_names(self)]
        group, dot, name = unknown.rpartition(".")
        names = {name for of, _, name in known if of == group and name != "help"}
        if not names:  # the group is the typo
            group, dot, name = "", "", unknown.partition(".")[0]
            names = {"".join(parts).partition(".")[0] for parts in known}
        alike = get_close_matches(name, names, n=1)
        return f", did you mean {group}{dot}{alike[0]}?" if alike else ""


def _fewer(every: list[str]) -> str:
    ours = [name for name in every if re.fullmatch(r"(distill|datamodules|callbacks)(\.\w+)?\.\w+", name)]
    if len(every) <= FEW or not ours:
        return ", ".join(every)
    return f"{', '.join(ours)}, and any other by its import path"
