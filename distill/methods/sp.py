"""SP: samples that are similar for the teacher are similar for the student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_weights
from distill.distributed import gather
from distill.losses import sp_loss
from distill.methods.parts.pairs import feature_pairs, require_pairs


class SP(DistillationModule):
    """Similarity-preserving knowledge distillation (Tung and Mori, ICCV 2019, eqs. 1-4).

    Needs: pairs of layers; global.

    ``hard_weight * CE + weight * SP``, where SP is summed over the pairs of layers. Similarities are taken between all
    samples of the batch, of all processes together, also samples without a label. Features may be vectors or maps,
    which count as one long vector, and may have any size; the paper takes the maps of the last block.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        weight: The weight of the term, the paper's gamma; 3000 in the paper for CIFAR-10.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers.
    """

    def __init__(self, *args: Any, weight: float = 3000.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        check_weights(self.hard_weight, weight=weight)
        self.weight = weight

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 4."""
        values = [sp_loss(*map(gather, pair)) for pair in feature_pairs(self, student, teacher)]
        return {"sp": self.weight * torch.stack(values).sum()}
