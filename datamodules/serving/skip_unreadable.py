"""Damaged files among the training samples: found during a fit, replaced, counted and reported."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Literal, Protocol, cast

import torch
from torch.utils.data import Dataset

from datamodules.reading.image_files import UnreadableError
from datamodules.serving.datasets import BatchedDataset
from datamodules.serving.loading import ResumableLoader
from datamodules.serving.sampling import SeededIndex, position_of
from distill.outputs import Batch

OnError = Literal["raise", "skip"]

log = logging.getLogger(__name__)


class _Batched(Protocol):
    def __getitems__(self, indices: Sequence[int | SeededIndex]) -> Batch: ...


class SkipUnreadable(BatchedDataset):
    """A data set that replaces each damaged sample by the next readable one; the first sample follows the last.

    Batches keep their size, so all processes of a distributed run take the same number of steps. The replacement
    depends on the files alone, not on workers or processes. ``index`` in a batch is that of the replacement. A damaged
    file is found once and not read again: all workers know of it.

    Args:
        dataset: Returns whole batches from ``__getitems__``, and raises an :class:`UnreadableError` where a file of the
            batch is damaged.
    """

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = cast(_Batched, dataset)
        count = len(cast(Sized, dataset))
        # shared with the workers, which find the damage
        self.damaged = torch.zeros(count, dtype=torch.bool).share_memory_()
        self.replaced = torch.zeros(count, dtype=torch.int64).share_memory_()
        self._reported = 0

    def __len__(self) -> int:
        return len(self.damaged)

    def __getitems__(self, indices: Sequence[int | SeededIndex]) -> Batch:
        """A batch of readable samples.

        Raises:
            UnreadableError: There is no readable sample.
        """
        while True:
            readable = [self._readable(index) for index in indices]
            try:
                batch = self.dataset.__getitems__(readable)
                break
            except UnreadableError:
                if not sum(self._is_damaged(index) for index in readable):
                    raise
        for requested, used in zip(indices, readable, strict=True):
            self.replaced[position_of(requested)] += position_of(requested) != position_of(used)
        return batch

    def report(self) -> None:
        """Logs how many samples were replaced since the last report, if there were any."""
        count, self._reported = int(self.replaced.sum()) - self._reported, int(self.replaced.sum())
        if count:
            damaged = self.damaged.nonzero()[:, 0].tolist()
            reason = "it is readable by now"
            try:
                self.dataset.__getitems__(damaged[:1])
            except UnreadableError as error:
                reason = str(error)
            log.warning(
                "%d training samples were replaced in this epoch, since %d of %d are unreadable; the first has the "
                "index %d: %s",
                *(count, len(damaged), len(self), damaged[0], reason),
            )

    def _readable(self, index: int | SeededIndex) -> int | SeededIndex:
        position = position_of(index)
        if not self.damaged[position]:
            return index
        later = (~torch.cat([self.damaged[position:], self.damaged[:position]])).nonzero()
        if not len(later):
            raise UnreadableError(f"none of the {len(self)} training samples can be read")
        position = (position + int(later[0])) % len(self)
        return index._replace(position=position) if isinstance(index, SeededIndex) else position

    def _is_damaged(self, index: int | SeededIndex) -> bool:
        try:
            self.dataset.__getitems__([index])
        except UnreadableError:
            self.damaged[position_of(index)] = True
        return bool(self.damaged[position_of(index)])


class SkipUnreadableLoader(ResumableLoader):
    """Loads from a :class:`SkipUnreadable` data set, and reports its replacements at the end of an epoch."""

    def __iter__(self) -> Any:
        return self._reporting(super().__iter__())

    def _reporting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        dataset = cast(SkipUnreadable, self.dataset)
        try:
            for batch in batches:
                if self._delivered == len(self):  # a trainer asks for no further batch
                    dataset.report()
                yield batch
        finally:
            dataset.report()
