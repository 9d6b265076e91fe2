"""Data sets that hand out whole batches, and one that lives in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from distill.errors import UserError

Batch = dict[str, Tensor]
SplitName = Literal["train", "val", "test"]


class BatchedDataset(Dataset[Batch], ABC):
    """Samples that are read a batch at a time, as :class:`~torch.utils.data.DataLoader` does where it can."""

    def __getitem__(self, index: Any) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    @abstractmethod
    def __getitems__(self, indices: Sequence[Any]) -> Batch:
        """The samples at these positions, as one batch; :func:`collate` passes it through."""


class TensorPairs(BatchedDataset):
    """The modalities and targets of a split, in memory.

    A batch costs one index operation a tensor, however many samples it has: :class:`~torch.utils.data.DataLoader`
    asks ``__getitems__`` for whole batches, and :func:`collate` passes them through.

    Args:
        tensors: Modalities and ``target`` by name, ``(N, *)`` each. ``uint8`` tensors are images: they stay bytes in
            memory and come back as ``float32`` from -1 (black) to 1 (white).

    Raises:
        ValueError: The tensors have different lengths, or one is called ``index``, which is added to every batch.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"paired tensors must have one length, got {lengths}")
        if "index" in tensors:
            raise UserError("'index' is the position in the data set and cannot be given")
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        positions = torch.tensor(indices, dtype=torch.int64)
        batch = {name: _as_stored_or_float(tensor[positions]) for name, tensor in self.tensors.items()}
        return {**batch, "index": positions}

    def select(self, positions: Tensor) -> TensorPairs:
        """A data set of the samples at ``positions``, ``(M,)`` ``int64``, whose ``index`` counts from 0 again."""
        return TensorPairs({name: tensor[positions] for name, tensor in self.tensors.items()})


def collate(samples: Batch | list[Batch]) -> Batch:
    """Stacks samples into a batch; what is a batch already, as from :class:`TensorPairs`, passes through."""
    return samples if isinstance(samples, dict) else cast(Batch, default_collate(samples))


def check_counts(**counts: int) -> None:
    """Refuses the first of the named counts that is below 1.

    Raises:
        ValueError: Names the argument and its value.
    """
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} must be at least 1, got {count}")


class Splits(NamedTuple):
    """The three data sets of a data module."""

    train: Dataset[Batch]
    val: Dataset[Batch]
    test: Dataset[Batch]


def _as_stored_or_float(values: Tensor) -> Tensor:
    return values.float().div_(127.5).sub_(1) if values.dtype == torch.uint8 else values
