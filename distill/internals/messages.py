"""Texts of other libraries that are parsed. No interface promises them, so each has the version that was read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

# an error in a process that loads data, as the main process raises it; the message follows the last frame
WORKER = re.compile(
    r"Caught \w+ in DataLoader worker process \d+\.\n.*"
    r'File "[^"]+", line \d+, in [^\n]+\n(?: [^\n]*\n)*[\w.]+: (?P<message>.*)',
    re.DOTALL,
)

# lines that jsonargparse adds to the causes for every union
NOISE = re.compile(
    "Does not validate against|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Not a valid subclass of"
    "|Expected a path but .* either not accessible or invalid$|Subclass types expect one of|a class path|a dict with"
)

# the message of jsonargparse about an unknown argument
UNKNOWN = re.compile(r"(?:Option '|Subcommand '\w+' does not accept option '|unrecognized arguments: --)([\w.]+)")


def worker_message(text: str) -> str | None:
    """The message of an error in a process that loads data, if the text is of one (torch 2.14.1)."""
    found = WORKER.match(text)
    return found["message"] if found else None


class WrongValue(NamedTuple):
    """What jsonargparse says of a value that it refuses."""

    keys: list[str]
    """The keys that lead to the value."""
    causes: list[str]
    """Why each of the types that it may have does not fit."""
    value: str
    """The value, if it is one word."""


def wrong_value(text: str) -> WrongValue:
    """The keys, causes and value in jsonargparse's tree of errors (4.53.0); each line of another text is a cause."""
    keys, causes, value = [], [], ""
    text = re.sub(r"Expected a path but .*? either not accessible or invalid", "", text, flags=re.DOTALL)
    for line in (line.strip(" -\t") for line in text.splitlines()):
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', line):
            keys.append(match[1])
            line = match[2]
        if match := re.match(r"Given value: ([^\s{[(]+)$", line):
            value = match[1]
        elif line and not NOISE.match(line):
            causes.append(_readable(line))
    if incomplete := [cause for cause in causes if cause.startswith("the following arguments are required")]:
        causes = incomplete  # the value is one of this type, so that the other types do not matter
    if len(causes) > 1:  # a text without a dot can be no class, so that the other causes count
        causes = [cause for cause in causes if not cause.startswith("Expected a dot import path string")] or causes
    return WrongValue(keys, causes, value)


def _readable(cause: str) -> str:
    cause = re.sub(r"Expected an? <class '(?:\w+\.)*(\w+)'>", r"Expected \1", cause)
    cause = re.sub(r"Expected an? typing\.Literal\[(.*?)\]", r"Expected one of \1", cause)
    return cause[1:-1] if re.fullmatch(r"'[^']*'|\"[^\"]*\"", cause) else cause


def abstract_class(text: str, value: str) -> str | None:
    """The class that jsonargparse does not create because it is abstract, if the text says that (4.53.0).

    Args:
        text: The cause that jsonargparse gives.
        value: The value that it refuses, which is the class if the text does not name it.
    """
    found = re.search(r"Expected an instantiatable class, but (?:([\w.]+) )?is abstract", text)
    return found and (found[1] or value or None)


def unknown_argument(text: str) -> str | None:
    """The argument that jsonargparse does not know, if the text says that (4.53.0)."""
    found = UNKNOWN.match(text)
    return found[1] if found else None


def key_of_a_file(text: str) -> str | None:
    """The key that jsonargparse does not take from a file, if the text says that (4.53.0)."""
    found = re.match(r"Subcommand '\w+' does not accept option '([\w.]+)'|Spaces not allowed in keys: \"(.*)\"", text)
    return found and (found[1] or found[2])


def of_a_class(text: str) -> bool:
    """Whether jsonargparse says that a class has no such option, without naming the class (4.53.0)."""
    return text.startswith("Option '") and text.endswith("' is not accepted")


def unknown_command(text: str) -> str | None:
    """The command that argparse does not know (Python 3.14); empty if none was given (jsonargparse 4.53.0)."""
    if text.startswith('expected "subcommand" to be one of'):
        return ""
    found = re.match(r"argument \S+: invalid choice: '(.*)' \(choose from ", text)
    return found[1] if found else None


def several_loaders(error: Exception) -> str | None:
    """The kind of loaders, such as ``val``, if Lightning says that a step takes one loader only (2.6.6)."""
    found = re.match(r"You provided multiple `(\w+)_dataloader`, but no `dataloader_idx` argument", str(error))
    return found[1] if found else None


def null_as_given(argument: str) -> str:
    """An argument of a parser within another; jsonargparse passes on a null as ``--key=None`` (4.53.0)."""
    return re.sub(r"^(--[^=]+)=None$", r"\1=null", argument)


def reword_subclasses(text: str, reword: Callable[[list[str]], str]) -> str:
    """The help of an argument with other words for the names of the classes that it takes (jsonargparse 4.53.0)."""
    return re.sub(r"(?<=known subclasses: )[^)]+", lambda names: reword(names[0].split(", ")), text)


def needs_more_values(error: ValueError) -> bool:
    """Whether a norm of torch refuses to train on one value a channel, as BatchNorm does (2.14.1)."""
    return str(error).startswith("Expected more than 1 ")
