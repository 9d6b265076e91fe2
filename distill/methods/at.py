"""AT: the student's layers are active at the same positions as the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_weights
from distill.losses import at_loss
from distill.methods.parts.pairs import position_pairs, require_pairs


class AT(DistillationModule):
    """Attention transfer (Zagoruyko and Komodakis, ICLR 2017, eq. 2 with activation-based maps and p = 2).

    Needs: pairs of maps.

    ``hard_weight * CE + weight * sum over the pairs of layers of the squared difference of their attention maps``. The
    difference is a mean over positions, as in the authors' code; eq. 2 prints half its norm. See
    :func:`~distill.losses.at_loss`.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs of
            feature maps ``(N, C, *)``, in the paper the ends of the groups of residual blocks.
        weight: The weight of the term; 1000 in the authors' code. The paper divides 1000 by the number of positions and
            samples.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers; from ``setup``: two
            layers share no positions, or one only.
    """

    def __init__(self, *args: Any, weight: float = 1000.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        check_weights(self.hard_weight, weight=weight)
        self.weight = weight

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The second term of equation 2 for each sample."""
        values = [at_loss(*pair, reduction="none") for pair in position_pairs(self, student, teacher)]
        return {"at": self.weight * torch.stack(values).sum(0)}
