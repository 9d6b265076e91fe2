"""Averaged weights: checkpoints hold those that a callback of Lightning averages and validates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from distill.internals.lightning import averaged_module, forget_averaged_module


class AveragedWeights(Callback):
    """Mends two faults of Lightning's :class:`WeightAveraging`, and does nothing without it.

    An average of integers is rounded down: with ``decay=0.9999`` the table of positions of a Swin Transformer would
    change. So the averaged module gets the integers of the trained one. And a validation after the fit would use the
    averages of the fit in place of the weights that it was asked for, so they are dropped.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drops the averages of an earlier fit."""
        for callback, _ in _averaging(trainer):
            forget_averaged_module(callback)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copies them before the averaged weights are validated."""
        _copy_integers(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copies them before the averaged weights replace the trained ones."""
        _copy_integers(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Copies them before the averaged weights are saved."""
        _copy_integers(trainer, pl_module)


def use_averaged_weights(checkpoint: dict[str, Any], trainer: Trainer | None, module: LightningModule) -> None:
    """Replaces the weights of a checkpoint without optimiser by the averaged ones, which validation scored.

    Lightning does so in whole checkpoints only. Stochastic weight averaging validates the trained weights, so its
    checkpoints hold these until the fit ends.

    Args:
        checkpoint: The checkpoint, before it is written.
        trainer: The trainer of the fit, or ``None``.
        module: The trained module.
    """
    if trainer is None or "callbacks" in checkpoint:
        return
    for callback, averaged in _averaging(trainer):
        if averaged is not None:
            _copy_integers(trainer, module)
            whole = dict(checkpoint)
            callback.on_save_checkpoint(trainer, module, whole)
            checkpoint["state_dict"] = whole["state_dict"]


def stochastic_average_ended(trainer: Trainer) -> bool:
    """Whether the trained weights have become the average of a :class:`StochasticWeightAveraging`, at a fit's end."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    started = [c for c in callbacks if isinstance(c, StochasticWeightAveraging) and c.state_dict()["n_averaged"]]
    return bool(started) and trainer.current_epoch >= (trainer.max_epochs or 0)


@torch.no_grad()
def _copy_integers(trainer: Trainer, module: LightningModule) -> None:
    for _, averaged in _averaging(trainer):
        if averaged is not None:
            for mean, buffer in zip(averaged.buffers(), module.buffers(), strict=True):
                if not buffer.is_floating_point():
                    mean.copy_(buffer)


def _averaging(trainer: Trainer) -> Iterator[tuple[WeightAveraging, torch.nn.Module | None]]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, WeightAveraging):
            yield callback, averaged_module(callback)
