"""The arguments of the base classes: which of them are needed, and which go into a checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.parsing import collect_init_args

from distill.internals.lightning import made_by_command_line

T = TypeVar("T")


def required(value: T | None, argument: str, owner: object) -> T:
    """The value of an argument that a part of a combination may leave out, but a whole method may not.

    Raises:
        ValueError: It was left out.
    """
    if value is None:
        raise ValueError(f"{type(owner).__name__} has no {argument}: give it under model.init_args.{argument}")
    return value


def described(network: object, argument: str) -> str:
    """A network as messages call it, such as ``student MLP``."""
    return f"{argument} {type(network).__name__}"


def save_plain_hyperparameters(module: LightningModule) -> None:
    """Keeps the configuration of the command line whole; of arguments from Python only those that are plain data.

    A checkpoint loads with ``weights_only=True``, so it holds no module and no function. Call this from the
    constructor of a base class.
    """
    if made_by_command_line():
        module.save_hyperparameters(logger=False)
        return
    frame = inspect.currentframe()
    assert frame is not None
    frame = frame.f_back
    # the outermost constructor alone: the names that it passes on are not arguments of the class itself
    while frame is not None and frame.f_back is not None and frame.f_back.f_locals.get("self") is module:
        frame = frame.f_back
    assert frame is not None
    scopes = collect_init_args(frame, [], classes=(LightningModule,))
    arguments = {name: value for scope in scopes for name, value in scope.items()}
    ignored = [name for name, value in arguments.items() if not is_plain(value)]
    module.save_hyperparameters(ignore=ignored, frame=frame, logger=False)


def is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, text, lists and dictionaries alone."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))
