"""Damaged files among the training samples: found while a fit runs, replaced, counted and reported."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Literal, Protocol, cast

import torch
from torch.utils.data import Dataset

from datamodules.reading.image_files import UnreadableError
from datamodules.serving.datasets import Batch, BatchedDataset
from datamodules.serving.loading import ResumableLoader
from datamodules.serving.sampling import SeededIndex

OnError = Literal["raise", "skip"]

log = logging.getLogger(__name__)


class _Batched(Protocol):
    def __getitems__(self, indices: Sequence[int | SeededIndex]) -> Batch: ...


class SkipUnreadable(BatchedDataset):
    """A data set in which the next readable sample, after the last one the first again, replaces a damaged one.

    Batches keep their size, so the processes of a distributed run take equally many steps; which sample replaces which
    depends on the files alone, not on workers or processes. The ``index`` in a batch is that of the replacement. What
    is damaged is found once and not read again; all workers know of it.

    Args:
        dataset: Gives whole batches through ``__getitems__`` and raises an :class:`UnreadableError` where one of their
            files is damaged.
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
        """A batch.

        Raises:
            UnreadableError: There is no readable sample.
        """
        while True:
            chosen = [self._readable(index) for index in indices]
            try:
                batch = self.dataset.__getitems__(chosen)
                break
            except UnreadableError:
                if not sum(self._is_damaged(index) for index in chosen):
                    raise
        for asked, given in zip(indices, chosen, strict=True):
            self.replaced[_position(asked)] += _position(asked) != _position(given)
        return batch

    def report(self) -> None:
        """Logs how many samples were replaced since the last report, if any were."""
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
        position = _position(index)
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
            self.damaged[_position(index)] = True
        return bool(self.damaged[_position(index)])


class SkipUnreadableLoader(ResumableLoader):
    """Loads from a :class:`SkipUnreadable` data set, which reports when an epoch ends."""

    def __iter__(self) -> Any:
        return self._reporting(super().__iter__())

    def _reporting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        dataset = cast(SkipUnreadable, self.dataset)
        try:
            for batch in batches:
                if self._delivered == len(self):  # after which a trainer asks for no more
                    dataset.report()
                yield batch
        finally:
            dataset.report()


def _position(index: int | SeededIndex) -> int:
    return index.position if isinstance(index, SeededIndex) else index
