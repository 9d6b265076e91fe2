"""The loss on labels, also of the auxiliary predictions that some networks make while they train."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from distill.outputs import Batch, NetworkOutput


class Labelled(Protocol):
    """A module with a hard loss."""

    aux_weight: float

    def at_targets(self, prediction: Tensor, batch: Batch) -> Tensor:
        """A prediction in the size of the target."""

    def hard_loss(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The task's loss, a scalar."""


def label_losses(module: Labelled, output: NetworkOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of all predictions on the labels, a scalar, and its terms by name, without their weights.

    Args:
        module: The module that trains; its ``aux_weight`` weights the auxiliary predictions.
        output: The output of the network, with the prediction in the size of the target.
        batch: The batch, with ``target``.

    Returns:
        ``hard + aux_weight * aux``, and the terms ``hard``, the loss of the prediction, and ``aux``, the sum of the
        losses of the auxiliary predictions; ``hard`` alone if there are none or their weight is 0.
    """
    hard = module.hard_loss(output.prediction, batch)
    if not output.auxiliary or not module.aux_weight:
        return hard, {"hard": hard}
    losses = [module.hard_loss(module.at_targets(prediction, batch), batch) for prediction in output.auxiliary.values()]
    aux = sum(losses[1:], start=losses[0])
    return hard + module.aux_weight * aux, {"hard": hard, "aux": aux}
