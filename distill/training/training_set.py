"""Reads the whole training set in order, outside of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from rich.progress import track
from torch.utils.data import DataLoader, Subset

from distill.batches import Batch, chosen_samples
from distill.errors import UserError
from distill.internals.lightning import as_in_a_step, loader_of


def training_set(module: Any, description: str, max_samples: int | None = None) -> Iterator[Batch]:
    """Each sample of the training set once, in order, in batches of the training's batch size, as its steps get them.

    With n processes, process r reads the samples r, r + n, r + 2n and so on. Random augmentation stays random; the
    random state is restored at the end.

    Args:
        module: The module in a fit, with its trainer.
        description: The text beside the progress bar, if the trainer shows one.
        max_samples: The number of samples to read, evenly spread over the training set; all by default.

    Raises:
        ValueError: The training data are not a :class:`~torch.utils.data.DataLoader` over numbered samples.
    """
    trainer: Trainer = module.trainer
    loader = _loader(trainer, description)
    size = len(loader.dataset)
    count = min(size, max_samples or size)
    samples = [n * size // count for n in range(trainer.global_rank, count, trainer.world_size)]
    batches = DataLoader(
        Subset(loader.dataset, samples),
        loader.batch_size or 1,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
    )
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    with isolate_rng():
        for batch in track(batches, description, disable=not shown, transient=True):
            yield as_in_a_step(module, batch)


def empty_batch(module: Any, description: str) -> Batch:
    """A batch in the format of :func:`training_set` with 0 samples."""
    loader = _loader(module.trainer, description)
    with isolate_rng():
        batch: Batch = as_in_a_step(module, loader.collate_fn([loader.dataset[0]]))
    return chosen_samples(batch, [])


def _loader(trainer: Trainer, description: str) -> Any:
    loader: Any = loader_of(trainer, "fit")
    if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
        raise UserError(f"{description} needs one DataLoader over numbered samples, got {type(loader).__name__}")
    return loader
