"""A batch: samples by name, and what is done with values of any kind in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from distill.errors import UserError, UserKeyError, UserTypeError

Batch = dict[str, Any]
"""The samples of a step: modalities, ``target`` and ``index`` by name, and values that no network uses."""

PRESENT = "_present"
"""The end of the name of a mask ``(N,)`` that tells which samples have a modality."""


def samples_in(batch: Mapping[str, Any]) -> int:
    """The number of samples of a batch: the length of ``target``, of ``index``, or of the first tensor or list.

    Raises:
        ValueError: The batch holds none of them.
    """
    for value in (batch.get("target"), batch.get("index"), *batch.values()):
        if isinstance(value, Mapping) and next(batched_tensors([value]), None) is not None:
            return samples_in(value)
        if (isinstance(value, Tensor) and value.ndim) or isinstance(value, (list, tuple)):
            return len(value)
    raise UserError("the batch holds no tensor and no list with one value for each sample")


def modalities(batch: Batch, names: Sequence[str]) -> tuple[Any, ...]:
    """The named modalities of a batch, in the order of the names: tensors, or lists with a tensor for each sample.

    Raises:
        KeyError: The batch lacks a modality, or has ``None`` in its place.
    """
    for name in names:
        if name not in batch:
            raise UserKeyError(f"the batch has no modality {name!r}; it has {', '.join(map(repr, batch))}")
        if batch[name] is None:
            raise UserKeyError(f"the batch has None as the modality {name!r}, which a network sees")
    return tuple(batch[name] for name in names)


def named_batch(batch: Any, names: Sequence[str]) -> Any:
    """A batch as a dictionary: the items of a tuple or list under these names, those of a named tuple under its own.

    A batch of another kind, or a tuple without names, is returned unchanged.

    Raises:
        ValueError: There are more or fewer items than names.
    """
    if isinstance(batch, Mapping):
        return batch if isinstance(batch, dict) else dict(batch)
    if not isinstance(batch, (tuple, list)):
        return batch
    if not names:
        return batch._asdict() if hasattr(batch, "_asdict") else batch
    if len(names) != len(batch):
        raise UserError(
            f"batch_names has {len(names)} names, {', '.join(names)}, but a batch has {len(batch)} items: "
            f"{_described_items(batch)}"
        )
    return dict(zip(names, batch, strict=True))


def check_named(batch: Any) -> Batch:
    """The batch, if it is a dictionary.

    Raises:
        TypeError: It is of another kind, such as a tuple whose items have no names.
    """
    if isinstance(batch, dict):
        return batch
    if isinstance(batch, (tuple, list)):
        names = [f"x_{'abcdefghijklmnopqrstuvwxyz'[at % 26]}" for at in range(len(batch) - 1)] + ["target"]
        raise UserTypeError(
            f"the batch is a {type(batch).__name__} of {len(batch)} items without names, {_described_items(batch)}: "
            f"name them by batch_names, as in [{', '.join(names)}]"
        )
    raise UserTypeError(
        f"the batch is of the kind {type(batch).__name__}: a loader must give dictionaries, or tuples whose items "
        "batch_names names"
    )


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The argument ``batch_names``.

    Raises:
        ValueError: It is a text, or two items have the same name.
    """
    if isinstance(names, str) or len(set(names)) != len(names):
        raise UserError(f"batch_names must be a list with a name of its own for each item of a batch, got {names!r}")
    return tuple(names)


def described(value: Any) -> str:
    """The shape of a tensor, or the kind of another value, as text for a message."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, (list, tuple)):
        shown = ", ".join(map(described, value[:3])) + (", ..." if len(value) > 3 else "")
        return f"{type(value).__name__} of {len(value)} ({shown})"
    return type(value).__name__


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a value, also those in its lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)


def batched_tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors ``(N, *)`` among values and in their dictionaries, but not those of lists, which have one sample."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from batched_tensors(value.values())


def with_floats(value: Any, dtype: Any) -> Any:
    """A value with its floating-point tensors in another type; integers and masks stay as they are."""
    return apply_to_collection(value, Tensor, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def chosen_samples(batch: Batch, rows: Tensor | Sequence[int]) -> Batch:
    """The batch of the samples at these rows, int64; values that are not one for each sample stay as they are."""
    count, chosen = samples_in(batch), torch.as_tensor(rows, dtype=torch.int64)
    return {name: _chosen(value, chosen, count) for name, value in batch.items()}


def _chosen(value: Any, rows: Tensor, count: int) -> Any:
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim and len(value) == count else value
    if isinstance(value, Mapping):
        return {name: _chosen(part, rows, count) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) == count:
            return [value[at] for at in rows.tolist()]
        return [_chosen(part, rows, count) for part in value]
    return value


def present(batch: Batch, names: Sequence[str]) -> Tensor | None:
    """Which samples have all named modalities, bool ``(N,)``; ``None`` where the batch does not tell.

    A network that sees the mask of a modality itself can do without the modality.

    Raises:
        ValueError: A mask has another type or shape.
    """
    masks = [f"{name}{PRESENT}" for name in names if f"{name}{PRESENT}" not in names]
    masks = [mask for mask in masks if mask in batch]
    count = samples_in(batch) if masks else 0
    for name in masks:
        mask = batch[name]
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (count,):
            got = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise UserError(
                f"{name!r} must tell for each sample whether it has {name.removesuffix(PRESENT)!r}, as a bool tensor "
                f"of shape ({count},), got {got}"
            )
    return torch.stack([batch[mask] for mask in masks]).all(0) if masks else None


def complete_rows(batch: Batch, names: Sequence[str]) -> Tensor | None:
    """The rows of the samples that have all named modalities, int64; ``None`` if all samples have them."""
    mask = present(batch, names)
    if mask is None:
        return None
    rows = mask.nonzero()[:, 0]
    return None if len(rows) == len(mask) else rows


def complete_samples(batch: Batch, names: Sequence[str]) -> Batch:
    """The batch of the samples that have all named modalities."""
    rows = complete_rows(batch, names)
    return batch if rows is None else chosen_samples(batch, rows)


def _described_items(batch: Sequence[Any]) -> str:
    return ", ".join(map(described, batch))
