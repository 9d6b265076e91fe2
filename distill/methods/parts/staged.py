"""The base of methods with two stages."""

from __future__ import annotations

from abc import ABC
from typing import Any

from lightning.pytorch.strategies import DDPStrategy

from distill.base import Batch, DistillationModule
from distill.checks import check_at_least
from distill.errors import UserError
from distill.internals.lightning import attached, finds_unused_parameters


class StagedDistillation(DistillationModule, ABC):
    """Base of the methods with two stages: the first epochs of a fit train on the method's first loss alone.

    The epoch decides the stage, so a resumed fit continues in the right stage. In the first stage there is no hard
    loss. Parts of the networks that the loss does not reach keep their values, except running statistics. The second
    stage starts with an empty optimiser state, like a separate fit: otherwise Adam's averages of the first loss's
    gradients would scale its steps. As part of :class:`~distill.methods.Combined`, the hard loss and the other parts
    also run in the first stage.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        stage_one_epochs: The number of epochs of the first stage.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: ``stage_one_epochs`` is less than 1. Before a fit: it is no less than the trainer's
            ``max_epochs``, a callback monitors ``val/loss``, or the strategy is DDP without
            ``find_unused_parameters``.
    """

    def __init__(self, *args: Any, stage_one_epochs: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_at_least(1, stage_one_epochs=stage_one_epochs)
        self.stage_one_epochs = stage_one_epochs

    @property
    def in_stage_one(self) -> bool:
        """Whether this epoch belongs to the first stage; a module without a trainer is in epoch 0."""
        trainer = attached(self)
        epoch = 0 if trainer is None else trainer.current_epoch
        return epoch < self.stage_one_epochs

    @property
    def current_hard_weight(self) -> float:
        """0 in the first stage."""
        return 0.0 if self.in_stage_one else self.hard_weight

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Clears the optimiser's state at the start of the second stage."""
        if batch_idx == 0 and self.current_epoch == self.stage_one_epochs:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def check_fit(self) -> None:
        """Checks that there is a second stage, and that DDP allows parameters without gradient in the first."""
        if not self.stage_one_epochs:
            return
        name, epochs = type(self).__name__, self.trainer.max_epochs
        if epochs is not None and 0 <= epochs <= self.stage_one_epochs:
            fewer = f", or stage_one_epochs={epochs - 1} or less" if epochs > 1 else ""
            raise UserError(
                f"{name} has stage_one_epochs={self.stage_one_epochs}, which leaves none of max_epochs={epochs} for "
                f"its second stage: give max_epochs={self.stage_one_epochs + 1} or more{fewer}"
            )
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if getattr(callback, "monitor", None) == "val/loss":
                raise UserError(
                    f"{type(callback).__name__} monitors val/loss, but {name} has another loss in each of its stages: "
                    "monitor val/hard or a score"
                )
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not finds_unused_parameters(strategy):
            raise UserError(
                f"{name} trains other parameters in each of its stages: give "
                "--trainer.strategy ddp_find_unused_parameters_true"
            )

    def _require_hard_loss(self) -> None:
        """Raises a ValueError if ``hard_weight`` is 0; the second stage of some methods is the hard loss alone."""
        if not self.hard_weight:
            raise UserError(
                f"{type(self).__name__} has hard_weight=0, but its second stage is the hard loss alone: give it a "
                "hard_weight above 0"
            )
