"""The names of several loaders that a trainer validates, tests or predicts on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from distill.errors import UserError, UserTypeError
from distill.internals.lightning import evaluation_loaders

STAGES = {"val": "validate", "test": "test", "predict": "predict"}


def loader_suffix(trainer: Trainer, stage: str, dataloader_idx: int) -> str:
    """What the names of a loader's scores end with: ``/<name>``; empty for the first loader.

    Args:
        trainer: The trainer, in a validation, a test or a prediction.
        stage: ``val``, ``test`` or ``predict``.
        dataloader_idx: The number of the loader, from 0.

    Raises:
        ValueError: The data module names another number of loaders than it returns.
    """
    if not dataloader_idx:
        return ""
    return "/" + loader_names(trainer, stage, evaluation_loaders(trainer, stage))[dataloader_idx]


def loader_count(trainer: Trainer, stage: str) -> int:
    """The number of loaders of a running validation, test or prediction; see :func:`loader_suffix`."""
    return len(list(_names(evaluation_loaders(trainer, stage))))


def loader_names(trainer: Trainer, stage: str, loaders: Any) -> list[str]:
    """The names of all loaders, in the order in which the trainer takes them.

    A dictionary of loaders has its keys as names. The data module may name the loaders of a list by
    ``val_loader_names``, ``test_loader_names`` or ``predict_loader_names``; otherwise their names are their numbers.

    Args:
        trainer: The trainer.
        stage: ``val``, ``test`` or ``predict``.
        loaders: What the data module returned.

    Raises:
        ValueError: The data module names another number of loaders than it returns, or two have one name.
    """
    names = list(_names(loaders.iterables if isinstance(loaders, CombinedLoader) else loaders))
    data = trainer.datamodule  # type: ignore[attr-defined]
    given = None if len(names) < 2 or isinstance(loaders, Mapping) else getattr(data, f"{stage}_loader_names", None)
    if given is None:
        return _check_apart(names, stage)
    if isinstance(given, str) or len(given) != len(names):
        raise UserError(
            f"{stage}_loader_names of {type(data).__name__} must be a list of {len(names)} names, "
            f"one for each loader to {STAGES[stage]} on, got {given!r}"
        )
    return _check_apart([str(name) for name in given], stage)


def _check_apart(names: list[str], stage: str) -> list[str]:
    """The names, if they differ as names of scores and of files, where a slash is an underscore."""
    seen: dict[str, str] = {}
    for name in names:
        flat = name.replace("/", "_")
        if flat in seen:
            raise UserError(f"the loaders {seen[flat]!r} and {name!r} to {STAGES[stage]} on need names that differ")
        seen[flat] = name
    return names


def flat_loaders(loaders: Any, stage: str) -> list[Any]:
    """The loaders one after another, in the order of their names; a fit has one.

    Args:
        loaders: What the data module returned.
        stage: ``fit``, ``validate`` or ``test``.

    Raises:
        TypeError: A fit has several loaders.
    """
    flat = list(CombinedLoader(loaders).flattened) if isinstance(loaders, (Mapping, list, tuple)) else [loaders]
    flat = list(loaders.flattened) if isinstance(loaders, CombinedLoader) else flat
    if stage == "fit" and len(flat) > 1:
        raise UserTypeError(
            f"a fit takes one loader of training data, got {len(flat)}: put their data sets into one, as by "
            "torch.utils.data.ConcatDataset"
        )
    return flat


def _names(loaders: Any) -> Iterator[str]:
    """The names in a loader or in nested lists and dictionaries of loaders, joined by a slash."""
    if isinstance(loaders, Mapping):
        parts = [(str(key), part) for key, part in loaders.items()]
    elif isinstance(loaders, (list, tuple)):
        parts = [(str(number), part) for number, part in enumerate(loaders)]
    else:
        yield ""
        return
    for name, part in parts:
        for inner in _names(part):
            yield f"{name}/{inner}" if inner else name
