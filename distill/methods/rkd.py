"""RKD: the student's features have the same distances and angles between samples as the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least
from distill.distributed import gather
from distill.errors import UserError
from distill.losses import rkd_angle_loss, rkd_distance_loss
from distill.methods.parts.pairs import feature_pairs, require_pairs


class RKD(DistillationModule):
    """Relational knowledge distillation (Park et al., CVPR 2019, eqs. 4-10).

    Needs: pairs of layers; global, 3 samples for angles.

    ``hard_weight * CE + distance_weight * RKD-D + angle_weight * RKD-A``, where both terms are summed over the pairs of
    layers. Relations are taken between all samples of the batch, of all processes together, also samples without a
    label. The paper compares the embeddings, the output of the last layer before the classifier: name that pooled
    layer. Features may be vectors or maps, which count as one long vector, and may have any number of channels.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        distance_weight: The weight of the distances; 25 in the paper for classification, where it is called
            lambda_RKD-D. 0 leaves them out.
        angle_weight: The weight of the angles; 50 in the paper for classification. 0 leaves them out.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, teacher and student have different numbers of layers, or both weights are 0.
    """

    def __init__(self, *args: Any, distance_weight: float = 25.0, angle_weight: float = 50.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        check_at_least(0, distance_weight=distance_weight, angle_weight=angle_weight)
        if not (distance_weight or angle_weight):
            raise UserError("RKD has nothing to compare: distance_weight and angle_weight are both 0")
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 4 with the distances of eq. 7 and the angles of eq. 10, as two terms."""
        pairs = [tuple(map(gather, pair)) for pair in feature_pairs(self, student, teacher)]
        terms = {}
        if self.distance_weight:
            distances = [rkd_distance_loss(*pair) for pair in pairs]
            terms["distance"] = self.distance_weight * torch.stack(distances).sum()
        if self.angle_weight:
            angles = [rkd_angle_loss(*pair) for pair in pairs]
            terms["angle"] = self.angle_weight * torch.stack(angles).sum()
        return terms
