"""Base of the data modules whose training samples are random, with noise or augmentation."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast, get_args

import torch
from torch.utils.data import DataLoader

from datamodules.base import PairedDataModule
from datamodules.serving.loading import ResumableLoader
from datamodules.serving.sampling import SeededSampler
from datamodules.serving.skip_unreadable import OnError, SkipUnreadable, SkipUnreadableLoader
from distill.checks import check_option
from distill.outputs import Batch


class SeededDataModule(PairedDataModule):
    """Base of the data modules whose training samples change in every epoch, by noise or augmentation.

    The training data set is asked for a :class:`~datamodules.serving.sampling.SeededIndex` instead of a plain position:
    the sample's position and the seed of its noise and augmentation. With one seed of ``seed_everything``, the same
    samples come, bit by bit, with any number of workers or processes and in a resumed run.

    Args:
        on_error: What happens when the file of a training sample is damaged. ``raise`` ends the fit. ``skip`` replaces
            the sample by the next readable one (:class:`~datamodules.serving.skip_unreadable.SkipUnreadable`) and
            reports this after each epoch. In validation, test and predict, a damaged file always ends the run, because
            scores over other samples could not be compared.
        **kwargs: Arguments of :class:`~datamodules.base.PairedDataModule`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, on_error: OnError = "raise", **kwargs: Any) -> None:
        # given here, so that the command line does not offer it: an epoch is one pass over the seeded samples
        super().__init__(steps_per_epoch=None, **kwargs)
        check_option("on_error", on_error, get_args(OnError))
        self.on_error: OnError = on_error

    # Loaders that start workers take a random number. From a generator of their own, it leaves the global state the
    # same whether there are workers or not.

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training split, shuffled, with new noise and augmentation in every epoch."""
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
