"""The file of a study or a ranking, and what the command line changes in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from jsonargparse import get_loader

from distill.command.errors import ConfigurationError
from distill.command.parser import Parser

NAMED = ("rows", "columns", "candidates")
"""Parts whose first keys are names, so that one of which nothing is known is a typing error."""


def read_plan(kind: type, command: str, description: str, arguments: list[str]) -> dict[str, Any]:
    """What a command line and the file that it names say, by the arguments of a class.

    An option such as ``--base.trainer.max_epochs 3`` sets one entry of a part of the file, and keeps the others.

    Args:
        kind: The class, whose docstring is the help.
        command: The command's name.
        description: What it does, for the help.
        arguments: The command line after its name.

    Raises:
        ConfigurationError: An argument is unknown or has a wrong value, or a row, a column or a candidate has no such
            name.
    """
    parser = Parser(prog=f"train.py {command}", description=description)
    parser.add_argument("--config", action="config", help="The file, of which --PART.KEY VALUE sets one entry.")
    parser.add_class_arguments(kind)
    whole, entries = _split(arguments)
    fields: dict[str, Any] = parser.parse_args(whole).as_dict()
    del fields["config"]
    for path, text in entries:
        part, _, rest = path.partition(".")
        if not isinstance(fields.get(part), dict):
            raise ConfigurationError(f"--{path}: there is no part {part!r} of which an entry could be set")
        if part in NAMED and not _keys_at_the_start(fields[part], rest):
            known = ", ".join(map(repr, fields[part]))
            raise ConfigurationError(f"--{path}: none of the {part} has such a name; there are {known}")
        fields[part] = merged(fields[part], _nested(fields[part], rest, _value(path, text)))
    return fields


def merged(base: Any, part: Any) -> Any:
    """One part of a configuration over another, as several ``--config`` merge."""
    if not isinstance(base, dict) or not isinstance(part, dict):
        return part
    if "class_path" in part and part["class_path"] != base.get("class_path", part["class_path"]):
        return part
    return base | {key: merged(base.get(key), value) for key, value in part.items()}


def _split(arguments: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The options by their names, and those of entries as paths and values."""
    whole: list[str] = []
    entries: list[tuple[str, str]] = []
    remaining = iter(arguments)
    for argument in remaining:
        option, *value = re.split(r"(?<! )=(?! )", argument, maxsplit=1)  # a name may hold " = "
        if not option.startswith("--") or "." not in option or option.endswith(".help"):
            whole.append(argument)
            continue
        entries.append((option.removeprefix("--"), value[0] if value else _next(option, remaining)))
    return whole, entries


def _next(option: str, remaining: Iterator[str]) -> str:
    value = next(remaining, None)
    if value is None:
        raise ConfigurationError(f"{option}: expected a value")
    return value


def _value(path: str, text: str) -> Any:
    """What a text says where it stands in a file; but ``10:00`` is no number of base 60."""
    try:
        value = get_loader("yaml")(text)
    except yaml.YAMLError:
        raise ConfigurationError(f"--{path}: {text!r} is not valid YAML") from None
    return text if isinstance(value, (int, float)) and ":" in text else value


def _nested(part: Any, path: str, value: Any) -> Any:
    """A value at a path whose steps are keys of the part, as ``gamma 0.2``, or else end at the next dot."""
    if not path:
        return value
    key = max(_keys_at_the_start(part, path), key=len, default=path.partition(".")[0])
    rest = path[len(key) + 1 :]
    return {key: _nested(part.get(key) if isinstance(part, dict) else None, rest, value)}


def _keys_at_the_start(part: Any, path: str) -> list[str]:
    return [key for key in part if f"{path}.".startswith(f"{key}.")] if isinstance(part, dict) else []
