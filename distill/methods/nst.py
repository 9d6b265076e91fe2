"""NST: the student's channels are active at the positions where the teacher's are, as two sets of maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_weights
from distill.losses import nst_loss
from distill.methods.parts.pairs import position_pairs, require_pairs


class NST(DistillationModule):
    """Neuron selectivity transfer (Huang and Wang, 2017, arXiv:1707.01219, Sec. 4).

    Needs: pairs of maps.

    ``hard_weight * CE + weight * sum over the pairs of layers of MMD^2``. The channels of a layer, each a map of where
    it is active, are samples of a distribution. The distributions of two layers are compared by their squared maximum
    mean discrepancy under the kernel (x^T y)^2. See :func:`~distill.losses.nst_loss`.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs of
            feature maps ``(N, C, *)``, in the paper the last convolution's.
        weight: The weight of the term; 50 in published code that compares methods. The paper writes it lambda / 2.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers; from ``setup``: two
            layers share no positions, or one only.
    """

    def __init__(self, *args: Any, weight: float = 50.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        check_weights(self.hard_weight, weight=weight)
        self.weight = weight

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The sum of the discrepancies of all pairs of layers, for each sample."""
        values = [nst_loss(*pair, reduction="none") for pair in position_pairs(self, student, teacher)]
        return {"nst": self.weight * torch.stack(values).sum(0)}
