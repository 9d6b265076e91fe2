"""Errors as one line: which are the user's to mend, and what they say."""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path

from distill.internals.messages import worker_error, wrong_value

OURS = tuple(Path(__file__).parents[2] / name for name in ("distill", "datamodules", "callbacks"))
# in these, the classes that a configuration names are made of its values
MAKING = ("instantiate_classes", "instantiate_trainer", "configure_optimizers")

# of the file system, of the user's share of it, and of one file
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ConfigurationError(Exception):
    """A command line or a configuration file that names what there is not, or gives it a wrong value."""


def one_line(message: str) -> str:
    """The keys, the causes and the value in jsonargparse's tree of errors; other messages as they are, on one line."""
    if in_worker := worker_error(message):
        message = in_worker.message
    keys, causes, value = wrong_value(message)
    whole = "; ".join(dict.fromkeys(causes)).replace(":;", ":") or " ".join(message.split())
    if value and not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", whole):
        whole += f". Got value: {value}"
    return ": ".join(filter(None, (".".join(keys), whole)))


def message(error: Exception) -> str:
    """What an error says, without the quotes that a KeyError puts around it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{': ' if error.filename else ''}{error.filename or ''}"
    return str(error.args[0] if error.args else error)


def is_a_sentence(error: Exception) -> bool:
    """Whether it was raised on purpose, by this project, or by what refuses the values of a configuration."""
    frames = traceback.extract_tb(error.__traceback__)
    last, line = Path(frames[-1].filename), frames[-1].line or ""
    if in_worker := worker_error(message(error)):
        last, line = Path(in_worker.file), in_worker.line
    if "jsonargparse" in last.parts or (isinstance(error, OSError) and error.errno in DISK_FULL):
        return True
    ours = any(folder in last.parents for folder in OURS)
    making = any(frame.name in MAKING for frame in frames)
    return (ours or making) and line.startswith("raise")
