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
    alone = getattr(module, "teacher", module) is None  # an evaluation needs no teacher
    if not alone and all(name in batch for name in getattr(module, "teacher_inputs", ())):
        try:
            with held_out():
                loss, terms, outputs = module.training_losses(batch)
        except KeyError as error:
            if error.args != ("target",):
                raise
        else:
            return {"loss": loss, **terms}, outputs
    return {}, module.evaluate(batch)
