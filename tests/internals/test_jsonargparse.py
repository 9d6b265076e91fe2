"""What is used of jsonargparse and argparse beyond their public names is there and does what is relied on."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser, get_loader
from jsonargparse._loaders_dumpers import loaders
from torch import nn

from distill.internals.jsonargparse import (
    RewordedHelpFormatter,
    argument_names,
    commands,
    folder_being_read,
    imports_checked,
    list_commands,
)


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
    assert commands(parser) == ["fit", "rank"]
    assert "{fit,rank} ..." in parser.format_usage()
    assert commands(ArgumentParser()) == []
    assert parser.parse_args(["fit", "--trainer.max_epochs", "3"]).fit.trainer.max_epochs == 3


def test_the_names_of_all_arguments_are_known_with_those_of_the_commands() -> None:
    names = argument_names(with_commands())
    assert {"verbose", "trainer.max_epochs"} <= set(names)
    alone = ArgumentParser()
    alone.add_argument("--a.b", type=int)
    assert set(argument_names(alone)) == {"help", "a.b"}


class Recorded:
    """Keeps what is imported, and refuses one path."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.before_import: list[str] = []
        self.imported: list[Any] = []
        self.failures: list[tuple[str, Exception]] = []

    def before(self, path: str) -> None:
        self.before_import.append(path)
        if path == self.refused:
            raise ValueError("it is refused")

    def after(self, path: str, value: Any) -> None:
        self.imported.append(value)

    def failed(self, path: str, error: Exception) -> None:
        self.failures.append((path, error))


@pytest.mark.parametrize("kind", [nn.Module, Callable[[], nn.Module], type[nn.Module], Any], ids=str)
def test_all_that_a_value_names_is_checked_before_and_after_its_import(kind: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    name = "torch.nn.ReLU"
    value: Any = {"class_path": name} if kind is Any else name
    check = Recorded()
    with imports_checked(check):
        parser.instantiate_classes(parser.parse_object({"value": value}))
    assert name in check.before_import
    assert nn.ReLU in check.imported
    refusing = Recorded(refused=name)
    refuses: AbstractContextManager[Any] = (
        nullcontext() if kind is Any else pytest.raises(ArgumentError, match="it is refused")
    )
    with imports_checked(refusing), refuses:  # a value of any kind stays what it was
        parser.instantiate_classes(parser.parse_object({"value": value}))
    assert refusing.imported == []


def test_a_failed_import_is_told_and_nothing_outside_is_checked() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=nn.Module)
    check = Recorded()
    with imports_checked(check), pytest.raises(ArgumentError):
        parser.parse_object({"value": "no_such_module.X"})
    assert {(path, type(error)) for path, error in check.failures} == {("no_such_module.X", ModuleNotFoundError)}
    parser.parse_object({"value": "torch.nn.ReLU"})
    assert check.imported == []


def test_the_folder_of_the_file_that_is_read_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path | None] = []
    before = get_loader("yaml")

    def load(text: str) -> Any:
        seen.append(folder_being_read())
        return before(text)

    monkeypatch.setitem(loaders, "yaml", load)
    (tmp_path / "x.yaml").write_text("a: 1\n")
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--a", type=int)
    parser.parse_args(["--config", str(tmp_path / "x.yaml")])
    assert tmp_path in seen
    assert folder_being_read() is None
