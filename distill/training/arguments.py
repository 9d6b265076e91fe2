"""The arguments of the base classes: checks the required ones, and saves the plain ones in checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.parsing import collect_init_args

from distill.errors import UserError
from distill.internals.lightning import made_by_command_line

T = TypeVar("T")


def required(value: T | None, argument: str, owner: object) -> T:
    """The value of an argument that is optional only for a part of a combination.

    Raises:
        ValueError: The value is None.
    """
    if value is None:
        raise UserError(f"{type(owner).__name__} has no {argument}: give it under model.init_args.{argument}")
    return value


def described(network: object, argument: str) -> str:
    """The name of a network in messages, such as ``student MLP``."""
    return f"{argument} {type(network).__name__}"


def save_plain_hyperparameters(module: LightningModule) -> None:
    """Saves the whole configuration of the command line, or those arguments from Python that are plain data.

    A checkpoint loads with ``weights_only=True``, so it holds no module and no function. Call this from the
    constructor of a base class.
    """
    if made_by_command_line():
        module.save_hyperparameters(logger=False)
        return
    frame = inspect.currentframe()
    assert frame is not None
    frame = frame.f_back
    # only the outermost constructor: the arguments that it passes to its base class are not the user's
    while frame is not None and frame.f_back is not None and frame.f_back.f_locals.get("self") is module:
        frame = frame.f_back
    assert frame is not None
    scopes = collect_init_args(frame, [], classes=(LightningModule,))
    arguments = {name: value for scope in scopes for name, value in scope.items()}
    ignored = [name for name, value in arguments.items() if not is_plain(value)]
    module.save_hyperparameters(ignore=ignored, frame=frame, logger=False)


def is_plain(value: Any) -> bool:
    """Whether a value consists of numbers, text, lists and dictionaries only."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))
