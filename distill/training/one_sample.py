"""Batches of one sample, on which BatchNorm cannot train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from distill.batches import Batch, chosen_samples, samples_in
from distill.errors import UserError
from distill.internals.messages import needs_more_values
from distill.internals.torch import buffers_kept
from distill.training.arguments import described
from distill.training.first_batch import complete_batch


@contextmanager
def explained_for_one_sample(batch: Batch) -> Iterator[None]:
    """Replaces BatchNorm's error about a batch of one sample by one sentence; a stream shows its sizes no earlier.

    Raises:
        ValueError: A layer cannot train on the batch, because it gets one value per channel.
    """
    try:
        yield
    except ValueError as error:
        if not needs_more_values(error) or samples_in(batch) != 1:
            raise
        raise UserError(
            f"a batch has one sample, on which a layer cannot train ({str(error).splitlines()[0]}): leave such batches "
            "out (drop_last of the loader), or choose another batch size"
        ) from error


class OneSampleCheck(Callback):
    """Tries the network on one sample before a fit, if a batch of an epoch is known to have one sample."""

    @torch.compiler.set_stance("force_eager")  # a batch of one is not worth a compilation
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs the network on one sample in training mode, and leaves the network unchanged.

        Raises:
            ValueError: The network cannot train on one sample, because its BatchNorm gets one value per channel.
        """
        module: Any = pl_module
        if self not in getattr(module, "collaborators", ()):  # Lightning leaves the callback with its trainer
            return
        loader: Any = trainer.train_dataloader
        steps = trainer.max_steps * trainer.accumulate_grad_batches
        position = _batch_of_one_sample(loader)
        if position is None or position >= trainer.num_training_batches or 0 <= steps <= position:
            return  # there is no such batch, or the fit never gets to it
        precision = trainer.precision_plugin
        try:
            with buffers_kept(module.network), torch.no_grad(), isolate_rng(), precision.forward_context():
                batch = complete_batch(module, loader, "fit")
                module.predict(precision.convert_input(chosen_samples(batch, range(min(1, samples_in(batch))))))
        except ValueError as error:
            if not needs_more_values(error):
                raise
            network, reason = described(module.network, "network"), str(error).splitlines()[0]
            place = "the last" if position == len(loader) - 1 else f"number {position}"
            size = getattr(loader.batch_sampler, "batch_size", None)
            mend = "other batches" if size is None else f"another batch_size than {size}"
            raise UserError(
                f"{place} of an epoch's {len(loader)} batches has one sample, on which the {network} cannot train "
                f"({reason}): choose {mend}"
            ) from error


def _batch_of_one_sample(loader: Any) -> int | None:
    """The position of this process's first batch with one sample; ``None`` where there is none, or nobody can know.

    A sampler of batches that is neither a sequence nor like torch's is not asked, because it may be random.
    """
    batches: Any = loader.batch_sampler if isinstance(loader, DataLoader) else None
    if isinstance(batches, Sequence):
        return next((position for position, indices in enumerate(batches) if len(indices) == 1), None)
    size, sampler = getattr(batches, "batch_size", None), getattr(batches, "sampler", None)
    if not size or getattr(batches, "drop_last", True) or not isinstance(sampler, Sized):
        return None
    return (len(sampler) - 1) // size if len(sampler) and (len(sampler) - 1) % size == 0 else None
