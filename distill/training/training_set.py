"""The training set from its first sample to its last, outside of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from rich.progress import track
from torch.utils.data import DataLoader, Subset

from distill.errors import UserError
from distill.outputs import Batch


def training_set(
    trainer: Trainer, device: torch.device, description: str, max_samples: int | None = None
) -> Iterator[Batch]:
    """Each sample of the training set once, in order, in batches of the size of training.

    Of n processes the first has every n-th of them, the second every n-th from the second on, and so on. Random
    augmentation is drawn as it comes; the random numbers that this takes are given back.

    Args:
        trainer: The trainer of a fit, which has the data.
        device: Where the batches are put.
        description: What this is done for, beside a progress bar where the trainer shows one.
        max_samples: So many samples, evenly from the whole, are enough; all by default.

    Raises:
        ValueError: The training data are no :class:`~torch.utils.data.DataLoader` over numbered samples.
    """
    loader = _loader(trainer, description)
    size = len(loader.dataset)
    count = min(size, max_samples or size)
    own = [n * size // count for n in range(trainer.global_rank, count, trainer.world_size)]
    batches = DataLoader(
        Subset(loader.dataset, own),
        loader.batch_size or 1,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
    )
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    with isolate_rng():
        for batch in track(batches, description, disable=not shown, transient=True):
            yield {name: values.to(device) for name, values in batch.items()}


def no_samples(trainer: Trainer, device: torch.device, description: str) -> Batch:
    """A batch of the training set, as :func:`training_set` has them, with 0 samples."""
    loader = _loader(trainer, description)
    with isolate_rng():
        batch: Batch = loader.collate_fn([loader.dataset[0]])
    return {name: values[:0].to(device) for name, values in batch.items()}


def _loader(trainer: Trainer, description: str) -> Any:
    loader: Any = trainer.fit_loop._data_source.dataloader()
    if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
        raise UserError(f"{description} needs one DataLoader over samples with a number, got {type(loader).__name__}")
    return loader
