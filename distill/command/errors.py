"""User errors: tells them from bugs, and makes one line of them."""

from __future__ import annotations

import dis
import errno
import re
import sys
import traceback
from pathlib import Path
from types import FrameType

from distill.allowed import is_own
from distill.errors import USER_ERRORS
from distill.internals.messages import abstract_class, several_loaders, worker_message, wrong_value

PROJECT_FOLDERS = tuple(Path(__file__).parents[2] / name for name in ("distill", "datamodules", "callbacks"))
# these functions create the classes that a configuration names, with the values that it gives
CREATING_FUNCTIONS = ("instantiate_classes", "instantiate_trainer", "configure_optimizers")

# the file system is full, the user's quota is full, or the file is too large
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


RUNNING = "run_subcommand"
"""The method of the command line within which a run does its work."""


class ConfigurationError(Exception):
    """A command line or a configuration file has an unknown name or a wrong value."""


def one_line(message: str) -> str:
    """A message on one line; of jsonargparse's tree of errors, its keys, causes and value."""
    message = worker_message(message) or message
    keys, causes, value = wrong_value(message)
    whole = "; ".join(dict.fromkeys(causes)).replace(":;", ":") or " ".join(message.split())
    if name := abstract_class(whole, value):
        return ": ".join(filter(None, (".".join(keys), _abstract(name))))
    if value and not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", whole):
        whole += f". Got value: {value}"
    if re.search(r"Got value: [-+.]*(nan|inf)$", whole, re.IGNORECASE):  # YAML reads nan as a text and .nan as a number
        whole = whole.replace("Expected float", "Expected a finite number")
    return ": ".join(filter(None, (".".join(keys), whole)))


def _abstract(path: str) -> str:
    """What a class that a configuration names has to define, before there can be an object of it."""
    module, _, name = path.rpartition(".")
    missing = sorted(getattr(getattr(sys.modules.get(module), name, None), "__abstractmethods__", ()))
    return f"{path} is abstract: define {', '.join(missing) or 'its abstract methods'} in it, or name a subclass"


def message(error: Exception) -> str:
    """The message of an error, without the quotes that a KeyError puts around it."""
    if loaders := several_loaders(error):
        return (
            f"{loaders}_dataloader returns several loaders, and the module's step takes one: add dataloader_idx: int = "
            "0 to the step's arguments, or return one loader"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{': ' if error.filename else ''}{error.filename or ''}"
    return str(error.args[0] if error.args else error)


def is_user_error(error: Exception) -> bool:
    """Whether the user can mend an error, so that its message is enough.

    These are the classes of :mod:`distill.errors`, the errors of jsonargparse, and a full disk. While the classes that
    a configuration names are created, an error that other code raises on purpose counts as well, such as that of an
    optimiser which refuses its value. An error of an operation in the user's own code is a bug.
    """
    if isinstance(error, USER_ERRORS) or (isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS):
        return True
    first = first_cause(error)
    if isinstance(first, USER_ERRORS):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    creating = any(frame.f_code.co_name in CREATING_FUNCTIONS for frame, _ in frames)
    if own := _own_frames(first):
        last = list(traceback.walk_tb(first.__traceback__))[-1]
        return creating and _raised_on_purpose(first) and (last == own[-1] or isinstance(first, ValueError))
    raising = Path(frames[-1][0].f_code.co_filename)
    if several_loaders(error):
        return True
    if "jsonargparse" in raising.parts:
        return not isinstance(error, (AttributeError, RuntimeError))
    in_project = any(folder in raising.parents for folder in PROJECT_FOLDERS)
    return creating and not in_project and _raised_on_purpose(error)


def first_cause(error: BaseException) -> BaseException:
    """The error that another library has wrapped in an error of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def bug_in_users_code(error: Exception) -> BaseException | None:
    """The error of the user's own code that another library has wrapped; None if there is none."""
    first = first_cause(error)
    return first if first is not error and _own_frames(first) else None


def has_started(error: Exception) -> bool:
    """Whether an error ended a run; otherwise the command or its configuration was wrong, and no run was started."""
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
        return True
    return any(frame.f_code.co_name == RUNNING for frame, _ in traceback.walk_tb(error.__traceback__))


def place_in_users_code(error: Exception) -> str:
    """The line of the user's own code that raised an error, in brackets; empty if other code raised it.

    An error of :mod:`distill.errors` is a sentence that needs no place, as is one of the system.
    """
    first = first_cause(error)
    own = [] if isinstance(first, (*USER_ERRORS, OSError)) else _own_frames(first)
    return f" ({own[-1][0].f_code.co_filename}, line {own[-1][1]})" if own else ""


def _own_frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """The frames of the user's own code in a traceback, each with its line."""
    frames = traceback.walk_tb(error.__traceback__)
    return [pair for pair in frames if is_own(str(pair[0].f_globals.get("__name__", "")).partition(".")[0])]


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether a ``raise`` statement raised the error; an operation that fails is a bug."""
    position = error.__traceback__
    assert position is not None
    while position.tb_next is not None:
        position = position.tb_next
    return position.tb_frame.f_code.co_code[position.tb_lasti] == dis.opmap["RAISE_VARARGS"]
