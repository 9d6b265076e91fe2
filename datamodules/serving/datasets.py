"""Data sets that return whole batches, and one whose samples lie in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from distill.errors import UserError
from distill.outputs import Batch

SplitName = Literal["train", "val", "test"]


class BatchedDataset(Dataset[Batch], ABC):
    """Base of the data sets that read a whole batch at once; :class:`~torch.utils.data.DataLoader` asks them for one.

    :func:`collate` then leaves the batch as it is.
    """

    def __getitem__(self, index: Any) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    @abstractmethod
    def __getitems__(self, indices: Sequence[Any]) -> Batch:
        """The samples at these positions, as one batch."""


class TensorPairs(BatchedDataset):
    """The modalities and targets of a split, in memory.

    A batch costs one index operation for each tensor, whatever its size.

    Args:
        tensors: Modalities and ``target`` by name, ``(N, *)`` each. ``uint8`` tensors are images: they stay bytes in
            memory, and a batch holds them as ``float32`` from -1 (black) to 1 (white).

    Raises:
        ValueError: The tensors differ in length, or one is called ``index``, a name that every batch uses itself.
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
        samples = {name: tensor[positions] for name, tensor in self.tensors.items()}
        batch = {name: pixels_to_floats(x) if x.dtype == torch.uint8 else x for name, x in samples.items()}
        return {**batch, "index": positions}

    def select(self, positions: Tensor) -> TensorPairs:
        """A data set of the samples at ``positions``, ``(M,)`` ``int64``; its ``index`` counts from 0."""
        return TensorPairs({name: tensor[positions] for name, tensor in self.tensors.items()})


def pixels_to_floats(pixels: Tensor) -> Tensor:
    """Pixels on the scale of bytes as ``float32``, from -1 (black, 0) to 1 (white, 255)."""
    return (pixels / 127.5).sub_(1)


def collate(samples: Batch | list[Batch]) -> Batch:
    """Stacks samples into a batch; a batch, as a :class:`BatchedDataset` returns it, stays as it is."""
    return samples if isinstance(samples, dict) else cast(Batch, default_collate(samples))


class Splits(NamedTuple):
    """The three data sets of a data module."""

    train: Dataset[Batch]
    val: Dataset[Batch]
    test: Dataset[Batch]
