"""Methods that train something else first."""

from __future__ import annotations

from abc import ABC
from typing import Any

from lightning.pytorch.strategies import DDPStrategy

from distill.base import Batch, DistillationModule
from distill.errors import UserError
from distill.internals.lightning import attached, finds_unused_parameters


class StagedDistillation(DistillationModule, ABC):
    """Base of the methods with two stages: the first epochs of a fit train on the method's first loss alone.

    The stage follows from the epoch, so a resumed fit goes on in the stage that it was stopped in. In the first stage
    there is no hard loss, and no part of the networks that the loss does not reach moves, but for running statistics.
    The second starts with a fresh optimiser, as one trained apart would: what Adam knows of gradients from another loss
    would scale its steps for as long as it remembers.
    As part of :class:`~distill.methods.Combined`, the hard loss and the other parts go on beside the first stage.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        stage_one_epochs: How many epochs the first stage takes.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: ``stage_one_epochs`` is less than 1. From ``setup``: it is no less than the trainer's
            ``max_epochs``, or the strategy is DDP without ``find_unused_parameters``.
    """

    def __init__(self, *args: Any, stage_one_epochs: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if stage_one_epochs < 1:
            raise UserError(f"stage_one_epochs must be 1 or more, got {stage_one_epochs}")
        self.stage_one_epochs = stage_one_epochs

    @property
    def in_stage_one(self) -> bool:
        """Whether this epoch belongs to the first stage; a module without a trainer is in epoch 0."""
        epoch = self.trainer.current_epoch if attached(self) is not None else 0
        return epoch < self.stage_one_epochs

    @property
    def current_hard_weight(self) -> float:
        """0 in the first stage."""
        return 0.0 if self.in_stage_one else self.hard_weight

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Forgets what the optimiser has gathered in the first stage."""
        if batch_idx == 0 and self.current_epoch == self.stage_one_epochs:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def check_fit(self) -> None:
        """Checks that there is a second stage, and that DDP allows for the first."""
        if not self.stage_one_epochs:
            return
        name, epochs = type(self).__name__, self.trainer.max_epochs
        if epochs is not None and 0 <= epochs <= self.stage_one_epochs:
            raise UserError(
                f"{name} has stage_one_epochs={self.stage_one_epochs}, which leaves none of max_epochs={epochs} for "
                "its second stage"
            )
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not finds_unused_parameters(strategy):
            raise UserError(
                f"{name} trains other parameters in each of its stages: give "
                "--trainer.strategy ddp_find_unused_parameters_true"
            )

    def _require_hard_loss(self) -> None:
        """Raises a ValueError where the hard loss, all that the second stage of some methods has, is left out."""
        if not self.hard_weight:
            raise UserError(
                f"{type(self).__name__} has hard_weight=0, but its second stage is the hard loss alone: give it a "
                "hard_weight above 0"
            )
