"""Averaged weights: checkpoints hold those that a callback of Lightning averages and validates."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from distill.distributed import SynchronizedBuffers
from distill.errors import UserError
from distill.internals.lightning import averaged_copy, averages_so_far, forget_averaged_copy


class AveragedWeights(Callback):
    """Mends faults of Lightning's callbacks that average weights, and does nothing without one of them.

    - An average of integers is rounded down: with ``decay=0.9999`` the table of positions of a Swin Transformer would
      change. An average of a memory of embeddings is no memory. So the copy that is averaged gets these from the
      trained module.
    - Before the first average, the copy has the weights of the fit's start: it gets the trained ones.
    - A validation after the fit would use the averages of the fit instead of the weights that it was asked for: they
      are dropped.
    - The copy would hold a second teacher: it is dropped.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drops the averages of an earlier fit."""
        for callback in _callbacks(trainer, WeightAveraging):
            forget_averaged_copy(callback)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops the copies of the teacher."""
        for callback in _callbacks(trainer, (WeightAveraging, StochasticWeightAveraging)):
            copy: Any = averaged_copy(callback)
            if getattr(copy, "frozen_teacher", None) is not None:
                copy.frozen_teacher = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises a ValueError if a fit would go on from averaged weights as if they were the trained ones."""
        resumes = trainer.state.fn == TrainerFn.FITTING and "averaging_state" in checkpoint
        if resumes and not _callbacks(trainer, WeightAveraging):
            raise UserError(
                "the checkpoint is of a fit that averages its weights: resume it with its callback, such as "
                "EMAWeightAveraging, or start a new fit from its weights"
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Completes the copy before its weights are validated."""
        _complete(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Completes the copy before its weights replace the trained ones."""
        _complete(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Completes the copy before its weights are saved."""
        _complete(trainer, pl_module)


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
    for callback in _callbacks(trainer, WeightAveraging):
        if averaged_copy(callback) is not None:
            _complete(trainer, module)
            whole = dict(checkpoint)
            callback.on_save_checkpoint(trainer, module, whole)
            checkpoint["state_dict"] = whole["state_dict"]


def stochastic_average_ended(trainer: Trainer) -> bool:
    """Whether the trained weights have become the average of a :class:`StochasticWeightAveraging`, at a fit's end."""
    started = [c for c in _callbacks(trainer, StochasticWeightAveraging) if c.state_dict()["n_averaged"]]
    return bool(started) and trainer.current_epoch >= (trainer.max_epochs or 0)


@torch.no_grad()
def _complete(trainer: Trainer, module: LightningModule) -> None:
    """Copies into the averaged copy what has no average, or all if there is no average yet."""
    for callback in _callbacks(trainer, WeightAveraging):
        averaged = averaged_copy(callback)
        if averaged is None:
            continue
        if not averages_so_far(callback):
            for mean, value in zip(averaged.parameters(), module.parameters(), strict=True):
                mean.copy_(value)
        for copy, part in zip(averaged.modules(), module.modules(), strict=True):
            whole = isinstance(part, SynchronizedBuffers) or not averages_so_far(callback)
            means = dict(copy.named_buffers(recurse=False))
            for name, buffer in part.named_buffers(recurse=False):
                if whole or not buffer.is_floating_point():
                    means[name].copy_(buffer)
            if type(part).get_extra_state is not nn.Module.get_extra_state:
                copy.set_extra_state(part.get_extra_state())


def _callbacks(trainer: Trainer, kind: Any) -> list[Any]:
    return [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, kind)]
