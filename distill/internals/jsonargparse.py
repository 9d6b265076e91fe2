"""jsonargparse and argparse: functions that use their private names, each with the version that was read."""

from __future__ import annotations

from argparse import Action
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter


class RewordedHelpFormatter(DefaultHelpFormatter):
    """A help formatter whose subclass can change the finished help of an argument (jsonargparse 4.53.0)."""

    def reworded(self, text: str) -> str:
        """The help of an argument, made from the help of jsonargparse."""
        return text

    def _expand_help(self, action: Action) -> str:
        return self.reworded(super()._expand_help(action))


def list_commands(parser: ArgumentParser, commands: Mapping[str, str]) -> None:
    """Adds commands of another parser to the list in the help of this parser (argparse of Python 3.14)."""
    action: Any = parser._subcommands_action
    action._choices_actions += [action._ChoicesPseudoAction(name, (), text) for name, text in commands.items()]


def argument_names(parser: ArgumentParser) -> list[str]:
    """The full names of the arguments of a parser and of its subcommands' parsers (jsonargparse 4.53.0)."""
    action: Any = parser._subcommands_action
    parsers = (parser, *(action._name_parser_map.values() if action else ()))
    return [argument.dest for one in parsers for argument in one._actions]
