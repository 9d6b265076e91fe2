"""Rebuilds a module from its checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import LightningModule
from torch import nn

from distill.allowed import Refusals
from distill.checkpoint import Weights, check_fits, load_network, path_of, read_content, weights_exist
from distill.errors import UserError, UserFileNotFoundError
from distill.internals.jsonargparse import imports_checked
from distill.internals.lightning import attached

MAKER = "lightning.pytorch.cli.instantiate_module"
"""The function by which a checkpoint of the command line is rebuilt; another one could be any function."""

_starts: ContextVar[bool] = ContextVar("starts", default=True)


class LoadsCheckpoints(LightningModule):
    """A module whose checkpoints are rebuilt without running code that they name."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The module of a checkpoint of the command line, with its networks and weights.

        A checkpoint of a fit from Python holds plain numbers and texts only: give the networks, the task and what else
        is an object as keyword arguments.

        Args:
            checkpoint_path: The checkpoint.
            *args: As in Lightning.
            **kwargs: As in Lightning: ``strict``, ``map_location``, and arguments of the constructor.

        Raises:
            FileNotFoundError: The teacher's file is not where it was.
            ValueError: The checkpoint lacks the networks, or names code that a configuration must not name.
        """
        if "://" not in str(checkpoint_path) and isinstance(checkpoint_path, (str, Path)):
            saved = read_content(Path(checkpoint_path), mmap=True).get("hyper_parameters", {})
            _check_loadable(cls, checkpoint_path, saved, kwargs)
        refusals = Refusals()
        try:
            with imports_checked(refusals), without_starts():
                return super().load_from_checkpoint(checkpoint_path, *args, **{"weights_only": True} | kwargs)
        except ArgumentError:
            if not refusals.sentences:
                raise
            raise UserError(f"{checkpoint_path}: {next(iter(refusals.sentences.values()))}") from None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compares the weights of a checkpoint from which a trainer loads with those of the module.

        Raises:
            ValueError: Names or shapes differ, as in a checkpoint of another method.
        """
        trainer = attached(self)
        whole = trainer is not None and not trainer.strategy.restore_checkpoint_after_setup  # else it is sharded
        if whole and self.strict_loading:
            check_fits(checkpoint["state_dict"], self.state_dict(), "the checkpoint", type(self).__name__)


@contextmanager
def without_starts() -> Iterator[None]:
    """Within it, networks load no weights to start from, because those of a checkpoint replace them."""
    token = _starts.set(False)
    try:
        yield
    finally:
        _starts.reset(token)


def load_start(network: nn.Module | None, source: Weights | str | Path | None, option: str) -> Sequence[str]:
    """Loads the weights from which a network starts, unless a checkpoint replaces them.

    Args:
        network: Changed in place.
        source: As in :func:`~distill.checkpoint.load_network`, if there is one.
        option: The argument that gave it, for messages.

    Returns:
        The names of the classes that the network was trained on, as far as they are known.
    """
    if network is None or source is None or not _starts.get():
        return ()
    return load_network(network, source, option)


def _check_loadable(kind: type, path: str | Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
    if saved.get("_instantiator", MAKER) != MAKER:
        raise UserError(f"{path} names {saved['_instantiator']} to be called: it is no checkpoint of this library")
    if "_class_path" not in saved:
        objects = ["network" if kind.__name__ == "Supervised" else "student", "task"]
        lacking = [name for name in objects if name not in given]
        if lacking:
            example = ", ".join(f"{name}=..." for name in lacking)
            raise UserError(
                f"{path} is of a fit from Python and does not hold its {' and '.join(lacking)}: give them, as in "
                f"{kind.__name__}.load_from_checkpoint(path, {example})"
            )
        known = {name for base in kind.__mro__ for name in inspect.signature(base).parameters}
        unknown = [name for name in saved if name not in known]
        if unknown:
            raise UserError(f"{path} is of another method than {kind.__name__}, which takes no {unknown[0]!r}")
    teacher = (saved | given).get("teacher_checkpoint")
    if teacher and not weights_exist(teacher):
        raise UserFileNotFoundError(
            f"the teacher_checkpoint {path_of(teacher)} of {path} does not exist: give teacher_checkpoint=..., or "
            "teacher=None, teacher_checkpoint=None for the student alone"
        )
