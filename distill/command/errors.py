"""Errors as one line: which are the user's to mend, and what they say."""

from __future__ import annotations

import dis
import errno
import re
import traceback
from pathlib import Path

from distill.errors import USER_ERRORS
from distill.internals.messages import worker_message, wrong_value

OURS = tuple(Path(__file__).parents[2] / name for name in ("distill", "datamodules", "callbacks"))
# in these, the classes that a configuration names are made of its values
MAKING = ("instantiate_classes", "instantiate_trainer", "configure_optimizers")

# of the file system, of the user's share of it, and of one file
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ConfigurationError(Exception):
    """A command line or a configuration file that names what there is not, or gives it a wrong value."""


def one_line(message: str) -> str:
    """The keys, the causes and the value in jsonargparse's tree of errors; other messages as they are, on one line."""
    message = worker_message(message) or message
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
    """Whether an error is the user's to mend, so that its message says enough.

    That is what this project raises for it, what jsonargparse raises and a full disk; and, while the classes that a
    configuration names are made, what any other code raises on purpose, such as an optimiser that refuses its value.
    """
    if isinstance(error, USER_ERRORS) or (isinstance(error, OSError) and error.errno in DISK_FULL):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    raising = Path(frames[-1][0].f_code.co_filename)
    if "jsonargparse" in raising.parts:
        return True
    making = any(frame.f_code.co_name in MAKING for frame, _ in frames)
    ours = any(folder in raising.parents for folder in OURS)
    return making and not ours and _raised_on_purpose(error)


def _raised_on_purpose(error: Exception) -> bool:
    """Whether a ``raise`` has raised it, and not an operation that failed, which is a bug."""
    position = error.__traceback__
    assert position is not None
    while position.tb_next is not None:
        position = position.tb_next
    return position.tb_frame.f_code.co_code[position.tb_lasti] == dis.opmap["RAISE_VARARGS"]
