"""Base of the data modules that draw their training samples anew in every epoch."""

from __future__ import annotations

from collections.abc import Sized
from typing import cast, get_args

import torch
from torch.utils.data import DataLoader

from datamodules.base import PairedDataModule
from datamodules.serving.datasets import Batch, SplitName
from datamodules.serving.loading import ResumableLoader
from datamodules.serving.sampling import SeededSampler
from datamodules.serving.unreadable import OnError, SkipUnreadable, SkipUnreadableLoader
from distill.errors import UserError


class DrawnDataModule(PairedDataModule):
    """Base of the data modules that draw their training samples anew in every epoch.

    The training data set is asked for :class:`~datamodules.serving.sampling.SeededIndex` instead of plain positions.
    For one ``seed_everything`` the same samples come, bit by bit, with any number of workers or processes and in a
    resumed run.

    Args:
        seed: Fixes the data and the splits.
        batch_size: ``None`` trains on the full batch.
        num_workers: Processes that load data.
        predict_on: The split that ``predict`` sees, not drawn anew.
        on_error: What to do about a training sample whose file is damaged: ``"raise"`` ends the fit, ``"skip"`` puts
            the next readable sample in its place (:class:`~datamodules.serving.unreadable.SkipUnreadable`) and says so
            after each epoch. In evaluation damage always ends the run, as scores of other samples could not be
            compared.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
        predict_on: SplitName = "test",
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(seed, batch_size, num_workers, predict_on)
        if on_error not in get_args(OnError):
            raise UserError(f"on_error must be one of {', '.join(get_args(OnError))}, got {on_error!r}")
        self.on_error: OnError = on_error

    # Loaders that start workers take a random number. From a generator of their own, it leaves the global state the
    # same whether there are workers or not.

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training split, shuffled and drawn anew."""
        dataset = self.splits.train
        epoch = None if self.trainer is None else self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        sampler = SeededSampler(len(cast(Sized, dataset)), epoch)
        if self.on_error == "raise":
            return self._loader(dataset, sampler=sampler, generator=torch.Generator(), kind=ResumableLoader)
        return self._loader(
            SkipUnreadable(dataset), sampler=sampler, generator=torch.Generator(), kind=SkipUnreadableLoader
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation split, in order."""
        return self._loader(self.splits.val, sampler=self._share("val"), generator=torch.Generator())

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test split, in order."""
        return self._loader(self.splits.test, sampler=self._share("test"), generator=torch.Generator())
