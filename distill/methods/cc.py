"""CC: embeddings of the student correlate over the batch as the teacher's do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.distributed import gather
from distill.losses import cc_loss
from distill.methods.parts.pairs import as_vector, feature_pairs, require_pairs


class CC(DistillationModule):
    """Correlation congruence for knowledge distillation (Peng et al., ICCV 2019, Sec. 3).

    ``hard_weight * CE + weight * CC``, for several pairs of layers of its sum. A linear layer embeds each side's
    features, of maps their mean over the positions; both are trained by this loss. Correlations are those between all
    samples of the batch, of all processes together, also of samples without a label.

    The paper's form, with a Gaussian kernel by its Taylor series; widespread code multiplies the differences of
    neighbouring samples instead. The paper adds KD: combine both for that. Nothing keeps the two trained embeddings
    from agreeing on little: the loss can fall without the student.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        dimension: The length of the embeddings; 128 in widespread code.
        gamma: Of the kernel; 0.4 in the paper.
        order: Where the Taylor series ends; 2 in the paper.
        weight: The weight of the term; 0.02, as widely run beside cross entropy.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers. From the step: gamma or
            order is out of its range.
    """

    def __init__(
        self,
        *args: Any,
        dimension: int = 128,
        gamma: float = 0.4,
        order: int = 2,
        weight: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        self.gamma = gamma
        self.order = order
        self.weight = weight
        self.student_embeddings = nn.ModuleList(nn.LazyLinear(dimension) for _ in self.student_layers)
        self.teacher_embeddings = nn.ModuleList(nn.LazyLinear(dimension) for _ in self.teacher_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The difference of the correlations of student and teacher."""
        values = []
        parts = zip(
            self.student_embeddings, self.teacher_embeddings, feature_pairs(self, student, teacher), strict=True
        )
        for embed_ours, embed_theirs, (ours, theirs) in parts:
            embedded = gather(embed_ours(as_vector(ours))), gather(embed_theirs(as_vector(theirs)))
            values.append(cc_loss(*embedded, gamma=self.gamma, order=self.order))
        return {"cc": self.weight * torch.stack(values).sum()}
