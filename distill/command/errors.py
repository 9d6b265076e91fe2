"""User errors: tells them from bugs, and makes one line of them."""

from __future__ import annotations

import dis
import errno
import re
import traceback
from pathlib import Path

from distill.errors import USER_ERRORS
from distill.internals.messages import worker_message, wrong_value

PROJECT_FOLDERS = tuple(Path(__file__).parents[2] / name for name in ("distill", "datamodules", "callbacks"))
# these functions create the classes that a configuration names, with the values that it gives
CREATING_FUNCTIONS = ("instantiate_classes", "instantiate_trainer", "configure_optimizers")

# the file system is full, the user's quota is full, or the file is too large
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ConfigurationError(Exception):
    """A command line or a configuration file has an unknown name or a wrong value."""


def one_line(message: str) -> str:
    """A message on one line; of jsonargparse's tree of errors, its keys, causes and value."""
    message = worker_message(message) or message
    keys, causes, value = wrong_value(message)
    whole = "; ".join(dict.fromkeys(causes)).replace(":;", ":") or " ".join(message.split())
    if value and not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", whole):
        whole += f". Got value: {value}"
    return ": ".join(filter(None, (".".join(keys), whole)))


def message(error: Exception) -> str:
    """The message of an error, without the quotes that a KeyError puts around it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{': ' if error.filename else ''}{error.filename or ''}"
    return str(error.args[0] if error.args else error)


def is_user_error(error: Exception) -> bool:
    """Whether the user can mend an error, so that its message is enough.

    These are the classes of :mod:`distill.errors`, the errors of jsonargparse, and a full disk. While the classes that
    a configuration names are created, an error that other code raises on purpose counts as well, such as that of an
    optimiser which refuses its value.
    """
    if isinstance(error, USER_ERRORS) or (isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    raising = Path(frames[-1][0].f_code.co_filename)
    if "jsonargparse" in raising.parts:
        return True
    creating = any(frame.f_code.co_name in CREATING_FUNCTIONS for frame, _ in frames)
    in_project = any(folder in raising.parents for folder in PROJECT_FOLDERS)
    return creating and not in_project and _raised_on_purpose(error)


def _raised_on_purpose(error: Exception) -> bool:
    """Whether a ``raise`` statement raised the error; an operation that fails is a bug."""
    position = error.__traceback__
    assert position is not None
    while position.tb_next is not None:
        position = position.tb_next
    return position.tb_frame.f_code.co_code[position.tb_lasti] == dis.opmap["RAISE_VARARGS"]
