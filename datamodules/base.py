"""Base of all data modules: it makes the data loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from typing import Any, cast, get_args

import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, Subset

from datamodules.serving.datasets import SplitName, Splits, TensorPairs, collate
from datamodules.serving.loading import Loader, ResumableLoader
from distill.checks import check_at_least, check_option, check_within
from distill.errors import UserError
from distill.internals.lightning import shares_samples
from distill.outputs import Batch


class PairedDataModule(LightningDataModule, ABC):
    """Base of the data modules: a subclass names its modalities and classes, and makes the splits.

    The training split is shuffled in every epoch; the order follows ``seed_everything``. ``predict`` sees a split in
    order. No sample is left out: the last batch may be smaller. In a distributed run, the processes share validation
    and test, and no sample is repeated, so the scores are those of one process.

    Args:
        seed: Fixes the data and the splits, whatever the global random state is.
        batch_size: Samples in a batch of one process; ``None`` puts the whole split into one batch.
        num_workers: Processes that load data; 0 loads in the main process.
        predict_on: The split that ``predict`` sees, without augmentation.
        steps_per_epoch: The number of batches after which a training epoch ends; ``None`` ends it after one pass over
            the split. Where the split is one batch, an epoch of one step costs far more than the step.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
        predict_on: SplitName = "test",
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        check_within(0, 2**32 - 1, seed=seed)
        check_at_least(1, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
        check_at_least(0, num_workers=num_workers)
        check_option("predict_on", predict_on, get_args(SplitName))
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.predict_on: SplitName = predict_on
        self.steps_per_epoch = steps_per_epoch
        self._splits: Splits | None = None
        self._predict_positions: tuple[int, ...] | None = None

    @property
    @abstractmethod
    def num_classes(self) -> int | None:
        """How many classes ``target`` has; ``None`` where it is no class."""

    @property
    @abstractmethod
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities in a batch."""

    @property
    def fixed_modalities(self) -> tuple[str, ...]:
        """The modalities whose training samples are the same in every epoch, so that a teacher's responses can be kept.

        Without a data set in memory there are none, unless a subclass names them.
        """
        return self.modalities if isinstance(self.splits.train, TensorPairs) else ()

    @property
    def evaluation_batch_size(self) -> int | None:
        """Samples in a batch of validation, test and ``predict``; ``None`` puts the whole split into one batch."""
        return self.batch_size

    @abstractmethod
    def make_splits(self) -> Splits:
        """Makes the data sets; every call makes the same ones."""

    @property
    def splits(self) -> Splits:
        """The data sets of training, validation and test.

        Raises:
            RuntimeError: ``setup`` has not been called.
        """
        if self._splits is None:
            raise RuntimeError(f"{type(self).__name__} has no data yet: call setup() first")
        return self._splits

    def setup(self, stage: str | None = None) -> None:
        """Makes the data sets of all stages on the first call; later calls keep them."""
        if self._splits is None:
            self._splits = self.make_splits()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training split, shuffled."""
        dataset = self.splits.train
        if self.steps_per_epoch is None:
            return self._loader(dataset, shuffle=True, kind=ResumableLoader)
        count = self.steps_per_epoch * (self.batch_size or len(cast(Sized, dataset)))
        sampler = RandomSampler(cast(Sized, dataset), num_samples=count)
        return self._loader(dataset, sampler=sampler, kind=ResumableLoader)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation split, in order; in a distributed run those of this process."""
        return self._loader(self.splits.val, sampler=self._share("val"))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test split, in order; in a distributed run those of this process."""
        return self._loader(self.splits.test, sampler=self._share("test"))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of the split ``predict_on``, in order."""
        dataset = self.predict_dataset
        if self._predict_positions is not None:
            dataset = Subset(dataset, self._predict_positions)
        return self._loader(dataset, generator=torch.Generator())

    @property
    def predict_dataset(self) -> Dataset[Batch]:
        """The whole split that ``predict_on`` names."""
        return cast(Dataset[Batch], getattr(self.splits, self.predict_on))

    @property
    def sample_names(self) -> Sequence[str]:
        """The names of the samples of ``predict_dataset``, by position, such as paths; empty if they have no names."""
        dataset = self.predict_dataset
        names: Sequence[str] = getattr(dataset, "names", ())
        return names if len(names) == len(cast(Sized, dataset)) else ()

    def predict_only(self, positions: Sequence[int] | None) -> None:
        """Limits ``predict`` to the samples at these positions of its split; ``index`` still counts in the whole split.

        Args:
            positions: In the order of the predictions; ``None`` means all samples.
        """
        self._predict_positions = None if positions is None else tuple(positions)

    def _share(self, split: SplitName) -> Sampler[Any] | None:
        """A sampler of this process's share of a split to evaluate on; ``None`` where one process takes the whole.

        Lightning's own sampler repeats samples, so that all processes get the same number.
        """
        trainer = self.trainer
        if trainer is None or not shares_samples(trainer):
            return None
        share: dict[str, int] = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        dataset = getattr(self.splits, split)
        if share["num_replicas"] == 1:
            return None
        if 0 < len(dataset) < share["num_replicas"]:
            raise UserError(
                f"the {len(dataset)} samples to {split} on cannot be shared by {share['num_replicas']} processes: "
                "each process needs one, so use fewer devices or a larger split"
            )
        return UnrepeatedDistributedSampler(dataset, **share, shuffle=False)

    def _loader(
        self,
        dataset: Dataset[Batch],
        *,
        shuffle: bool = False,
        sampler: Sampler[Any] | None = None,
        generator: torch.Generator | None = None,
        kind: type[Loader] = Loader,
    ) -> DataLoader[Batch]:
        # those that resume are the loaders to train with
        size = self.batch_size if issubclass(kind, ResumableLoader) else self.evaluation_batch_size
        return kind(
            dataset,
            batch_size=(len(cast(Sized, dataset)) or 1) if size is None else size,
            shuffle=shuffle,
            sampler=sampler,
            generator=generator,
            num_workers=self.num_workers,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
        )
