"""Errors as one line: which are the user's to mend, and what they say."""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path

OURS = tuple(Path(__file__).parents[2] / name for name in ("distill", "datamodules", "callbacks"))
# in these, the classes that a configuration names are made of its values
MAKING = ("instantiate_classes", "instantiate_trainer", "configure_optimizers")

# what an error in a process that loads data becomes in the main one: its last frame and its message count
WORKER = re.compile(
    r"Caught \w+ in DataLoader worker process \d+\.\n.*"
    r'File "(?P<file>[^"]+)", line \d+, in [^\n]+\n +(?P<line>[^\n]+)\n(?: [^\n]*\n)*[\w.]+: (?P<message>.*)',
    re.DOTALL,
)

# what jsonargparse tells of every union, beside the causes
NOISE = re.compile(
    "Does not validate against|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Not a valid subclass of"
    "|Expected a path but .* either not accessible or invalid$|Subclass types expect one of|a class path|a dict with"
)

# of the file system, of the user's share of it, and of one file
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ConfigurationError(Exception):
    """A command line or a configuration file that names what there is not, or gives it a wrong value."""


def one_line(message: str) -> str:
    """The keys, the causes and the value in jsonargparse's tree of errors; other messages as they are, on one line."""
    if in_worker := WORKER.match(message):
        message = in_worker["message"]
    keys, causes, value = [], [], ""
    for line in (line.strip(" -\t") for line in message.splitlines()):
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', line):
            keys.append(match[1])
            line = match[2]
        if match := re.match(r"Given value: ([^\s{[(]+)$", line):
            value = match[1]
        elif line and not NOISE.match(line):
            causes.append(_readable(line))
    whole = "; ".join(dict.fromkeys(causes)).replace(":;", ":") or " ".join(message.split())
    if value and not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", whole):
        whole += f". Got value: {value}"
    return ": ".join(filter(None, (".".join(keys), whole)))


def _readable(cause: str) -> str:
    cause = re.sub(r"Expected an? <class '(?:\w+\.)*(\w+)'>", r"Expected \1", cause)
    cause = re.sub(r"Expected an? typing\.Literal\[(.*?)\]", r"Expected one of \1", cause)
    return cause[1:-1] if re.fullmatch(r"'[^']*'|\"[^\"]*\"", cause) else cause


def message(error: Exception) -> str:
    """What an error says, without the quotes that a KeyError puts around it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{': ' if error.filename else ''}{error.filename or ''}"
    return str(error.args[0] if error.args else error)


def is_a_sentence(error: Exception) -> bool:
    """Whether it was raised on purpose, by this project, or by what refuses the values of a configuration."""
    frames = traceback.extract_tb(error.__traceback__)
    last, line = Path(frames[-1].filename), frames[-1].line or ""
    if in_worker := WORKER.match(message(error)):
        last, line = Path(in_worker["file"]), in_worker["line"]
    if "jsonargparse" in last.parts or (isinstance(error, OSError) and error.errno in DISK_FULL):
        return True
    ours = any(folder in last.parents for folder in OURS)
    making = any(frame.name in MAKING for frame in frames)
    return (ours or making) and line.startswith("raise")
