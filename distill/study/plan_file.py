"""The file of a study or a ranking, the files that it names, and what the command line changes in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import get_loader

from distill.command.errors import ConfigurationError
from distill.command.parser import Parser
from distill.command.yaml_text import read_yaml, start_counting
from distill.internals.jsonargparse import argument_names

INCLUDE = "include"

NAMED = ("rows", "columns", "candidates")
"""Parts whose first keys are names, so that an unknown key is a typing error."""

OPTIONS = ("help", "config", "force", "keep", "only", "only_column", "print_config")
"""Arguments of the command line that no file holds."""


def plan_parser(kind: type, command: str, description: str) -> Parser:
    """The parser of a command that reads a file: ``--config`` and the arguments of a class.

    Args:
        kind: The class, whose docstring is the help.
        command: The command's name.
        description: What the command does, for the help.
    """
    parser = Parser(prog=f"train.py {command}", description=description, print_config=None)
    parser.add_argument("--config", type=str, help="The file. --PART.KEY VALUE sets one entry of it.")
    parser.add_class_arguments(kind)
    parser.add_argument(
        "--force", action="store_true", help="Replaces results of other settings, and those of other code."
    )
    parser.add_argument("--keep", action="store_true", help="Keeps results of other code as they are.")
    return parser


def take_policy(fields: dict[str, Any]) -> Literal["refuse", "keep", "replace"]:
    """What a command line says about results of other settings or of other code; takes it from what was read.

    Raises:
        ConfigurationError: It says both.
    """
    force, keep = fields.pop("force"), fields.pop("keep")
    if force and keep:
        raise ConfigurationError("--force trains results of other code again and --keep keeps them: choose one")
    return "replace" if force else "keep" if keep else "refuse"


def read_plan(parser: Parser, arguments: list[str]) -> dict[str, Any]:
    """What a command line and the file that it names say, by the arguments of the parser's class.

    An option such as ``--base.trainer.max_epochs 3`` sets one entry of a part of the file, and keeps the others.

    Args:
        parser: Of :func:`plan_parser`.
        arguments: The command line after the command's name.

    Raises:
        ConfigurationError: An argument is unknown or has a wrong value, a file cannot be read, or a row, a column or a
            candidate has no such name.
    """
    files, whole, entries = _split(arguments)
    content: dict[str, Any] = {}
    for file in files:
        content = merged(content, read_file(Path(file)))
    _check_keys(content, parser, " and ".join(files))
    given = parser.parse_object(content) if files else None
    fields: dict[str, Any] = parser.parse_args(whole, namespace=given).as_dict()
    del fields["config"]
    for path, text in entries:
        part, _, rest = path.partition(".")
        if not isinstance(fields.get(part), dict):
            raise ConfigurationError(f"--{path}: there is no part {part!r} with entries")
        if part in NAMED and not _keys_at_the_start(fields[part], rest):
            known = ", ".join(map(repr, fields[part]))
            raise ConfigurationError(f"--{path}: none of the {part} has such a name; there are {known}")
        fields[part] = merged(fields[part], _nested(fields[part], rest, _value(path, text)))
    return fields


def _check_keys(content: dict[str, Any], parser: Parser, source: str) -> None:
    """Refuses unknown keys, and names that YAML reads as a number, a truth value or a null."""
    known = [name for name in argument_names(parser) if name not in OPTIONS and "." not in name]
    for key in content:
        if key not in known:
            similar = get_close_matches(str(key), known, n=1)
            meant = f", did you mean {similar[0]}" if similar else ""
            raise ConfigurationError(f"{source}: there is no key {key!r}{meant}? The keys are {', '.join(known)}")
    parts = {name: content[name] for name in NAMED if isinstance(content.get(name), dict)}
    for column, part in parts.get("columns", {}).items():
        if isinstance(part, dict) and isinstance(part.get("rows"), dict):
            parts[f"columns.{column}.rows"] = part["rows"]
    for name, part in parts.items():
        for key in part:
            if not isinstance(key, str):
                raise ConfigurationError(
                    f"{source}: YAML reads a name in {name} as {key!r}, which is not text: write it in quotes"
                )


def read_file(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The content of a YAML file, with the content of the files that it names in their place.

    A value that ends in ``.yaml`` names a file. The key ``include`` names one, or a list of them; what stands beside it
    is merged over their content. All paths are relative to the file that names them, and may lead to any file that the
    user can read.

    Args:
        path: The file.
        readers: The files that led to it, the first one first.

    Raises:
        ConfigurationError: There is no such file, it is not a mapping, or it leads back to itself.
    """
    by = f", which {readers[-1]} names" if readers else ""
    if path.resolve() in [reader.resolve() for reader in readers]:
        raise ConfigurationError(f"{path} leads back to itself: {' -> '.join(map(str, (*readers, path)))}")
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}{by}")
    if not readers:
        start_counting()
    try:
        content = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}{by} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}{by} must hold keys and values")
    resolved: dict[str, Any] = _with_files(content, path, readers)
    return resolved


def _with_files(part: Any, path: Path, readers: tuple[Path, ...]) -> Any:
    def content_of(name: Any) -> dict[str, Any]:
        if not isinstance(name, str):
            raise ConfigurationError(f"{path}: {INCLUDE} must name files, got {name!r}")
        return read_file(path.parent / name, (*readers, path))

    if isinstance(part, list):
        return [_with_files(item, path, readers) for item in part]
    if isinstance(part, str) and part.endswith(".yaml"):
        return content_of(part)
    if not isinstance(part, dict):
        return part
    included = part.get(INCLUDE, [])
    result: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        result = merged(result, content_of(name))
    own = {key: _with_files(value, path, readers) for key, value in part.items() if key != INCLUDE}
    return merged(result, own)


def merged(base: Any, part: Any) -> Any:
    """One part of a configuration merged over another; a part with another class replaces the first one."""
    if not isinstance(base, dict) or not isinstance(part, dict):
        return part
    if "class_path" in part and part["class_path"] != base.get("class_path", part["class_path"]):
        return part
    return base | {key: merged(base.get(key), value) for key, value in part.items()}


def _split(arguments: list[str]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """The files, the options of whole arguments, and those of entries as paths and values."""
    files: list[str] = []
    whole: list[str] = []
    entries: list[tuple[str, str]] = []
    remaining = iter(arguments)
    for argument in remaining:
        option, *value = re.split(r"(?<! )=(?! )", argument, maxsplit=1)  # a name may hold " = "
        if option == "--config":
            files.append(value[0] if value else _next(option, remaining))
            continue
        if not option.startswith("--") or "." not in option or option.endswith(".help"):
            whole.append(argument)
            continue
        entries.append((option.removeprefix("--"), value[0] if value else _next(option, remaining)))
    return files, whole, entries


def _next(option: str, remaining: Iterator[str]) -> str:
    value = next(remaining, None)
    if value is None:
        raise ConfigurationError(f"{option}: expected a value")
    return value


def _value(path: str, text: str) -> Any:
    """The value that a text has in a file; but ``10:00`` stays a text, where YAML reads a number of base 60."""
    try:
        value = get_loader("yaml")(text)
    except yaml.YAMLError:
        raise ConfigurationError(f"--{path}: {text!r} is not valid YAML") from None
    return text if isinstance(value, (int, float)) and ":" in text else value


def _nested(part: Any, path: str, value: Any) -> Any:
    """A value at a path; a step is a key of the part, such as ``gamma 0.2``, or else ends at the next dot."""
    if not path:
        return value
    key = max(_keys_at_the_start(part, path), key=len, default=path.partition(".")[0])
    rest = path[len(key) + 1 :]
    return {key: _nested(part.get(key) if isinstance(part, dict) else None, rest, value)}


def _keys_at_the_start(part: Any, path: str) -> list[str]:
    return [key for key in part if f"{path}.".startswith(f"{key}.")] if isinstance(part, dict) else []
