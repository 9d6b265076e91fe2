"""User errors: tells them from bugs, and makes one line of them."""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path

from distill.internals.messages import worker_error, wrong_value

PROJECT_FOLDERS = tuple(Path(__file__).parents[2] / name for name in ("distill", "datamodules", "callbacks"))
# these functions create the classes that a configuration names, with the values that it gives
CREATING_FUNCTIONS = ("instantiate_classes", "instantiate_trainer", "configure_optimizers")

# the file system is full, the user's quota is full, or the file is too large
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ConfigurationError(Exception):
    """A command line or a configuration file has an unknown name or a wrong value."""


def one_line(message: str) -> str:
    """A message on one line; of jsonargparse's tree of errors, its keys, causes and value."""
    if in_worker := worker_error(message):
        message = in_worker.message
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
    """Whether an error is the user's: this project, or a class that a configuration names, raised it on purpose."""
    frames = traceback.extract_tb(error.__traceback__)
    last, line = Path(frames[-1].filename), frames[-1].line or ""
    if in_worker := worker_error(message(error)):
        last, line = Path(in_worker.file), in_worker.line
    if "jsonargparse" in last.parts or (isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS):
        return True
    in_project = any(folder in last.parents for folder in PROJECT_FOLDERS)
    creating = any(frame.name in CREATING_FUNCTIONS for frame in frames)
    return (in_project or creating) and line.startswith("raise")
