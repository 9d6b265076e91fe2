"""PKT: samples that are neighbours for the teacher are neighbours for the student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_weights
from distill.distributed import gather
from distill.losses import pkt_loss
from distill.methods.parts.pairs import feature_pairs, require_pairs


class PKT(DistillationModule):
    """Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018, Sec. 3, with the cosine kernel).

    Needs: pairs of layers; global.

    ``hard_weight * CE + weight * PKT``, where PKT is summed over the pairs of layers. A sample's neighbours are all
    samples of the batch, of all processes together, also samples without a label. Features may be vectors or maps,
    which count as one long vector, and may have any size; the paper takes the embeddings, the last layer before the
    classifier.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        weight: The weight of the term; 30000 is widely used beside cross entropy. The paper trains on the term alone.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers.
    """

    def __init__(self, *args: Any, weight: float = 30000.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        check_weights(self.hard_weight, weight=weight)
        self.weight = weight

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The divergence of the student's neighbourhoods from the teacher's."""
        values = [pkt_loss(*map(gather, pair)) for pair in feature_pairs(self, student, teacher)]
        return {"pkt": self.weight * torch.stack(values).sum()}
