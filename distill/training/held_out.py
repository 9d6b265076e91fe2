"""The loss of a module on a batch that is not from its training set."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.distributed import held_out
from distill.outputs import Batch


def held_out_losses(module: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The loss of a batch with its terms, by name, and the outputs of the step for the callbacks.

    Args:
        module: A :class:`~distill.base.Supervised` module in eval mode.
        batch: A batch of the validation split. If it lacks labels that the loss needs, or the teacher's modalities,
            there are no losses.
    """
    without_labels = "target" not in batch
    if module.runs_alone(batch) or (without_labels and getattr(module, "hard_weight", 1)):
        return {}, module.evaluate(batch)
    try:
        with held_out():
            loss, terms, outputs = module.training_losses(batch)
    except KeyError as error:
        if not without_labels or error.args != ("target",):
            raise
        return {}, module.evaluate(batch)
    return {"loss": loss, **terms}, outputs
