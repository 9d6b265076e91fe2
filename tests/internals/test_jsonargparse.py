"""What is used of jsonargparse and argparse beyond their public names is there and does what is relied on."""

from __future__ import annotations

import re

from jsonargparse import ArgumentParser

from distill.internals.jsonargparse import RewordedHelpFormatter, argument_names, list_commands


class Upper(RewordedHelpFormatter):
    """Shouts."""

    def reworded(self, text: str) -> str:
        return text.upper()


def test_the_help_of_an_argument_is_reworded_when_all_is_filled_in() -> None:
    parser = ArgumentParser(formatter_class=Upper)
    parser.add_argument("--rate", type=float, default=0.5, help="how fast")
    assert "HOW FAST (TYPE: FLOAT, DEFAULT: 0.5)" in parser.format_help()


def with_commands() -> ArgumentParser:
    parser = ArgumentParser(prog="prog")
    parser.add_argument("--verbose", type=bool)
    commands = parser.add_subcommands()
    fit = ArgumentParser()
    fit.add_argument("--trainer.max_epochs", type=int)
    commands.add_subcommand("fit", fit, help="Fits.")
    return parser


def test_commands_are_listed_in_the_help_and_not_accepted() -> None:
    parser = with_commands()
    list_commands(parser, {"rank": "Orders."})
    listed = parser.format_help().partition("Available subcommands:")[2]
    assert re.findall(r"^ +(\w+) +(\w+\.)$", listed, re.MULTILINE) == [("fit", "Fits."), ("rank", "Orders.")]
    assert parser.parse_args(["fit", "--trainer.max_epochs", "3"]).fit.trainer.max_epochs == 3


def test_the_names_of_all_arguments_are_known_with_those_of_the_commands() -> None:
    names = argument_names(with_commands())
    assert {"verbose", "trainer.max_epochs"} <= set(names)
    alone = ArgumentParser()
    alone.add_argument("--a.b", type=int)
    assert set(argument_names(alone)) == {"help", "a.b"}
