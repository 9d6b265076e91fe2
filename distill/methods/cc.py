"""CC: the student's embeddings have the same correlations between samples as the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_positive, check_weights
from distill.distributed import gather
from distill.losses import cc_loss
from distill.losses.parts.pooling import as_vector
from distill.methods.parts.pairs import feature_pairs, require_pairs


class CC(DistillationModule):
    """Correlation congruence for knowledge distillation (Peng et al., ICCV 2019, Sec. 3).

    Needs: pairs of layers; global.

    Trains: two embeddings for each pair.

    ``hard_weight * CE + weight * CC``, where CC is summed over the pairs of layers. A linear layer embeds the features
    of each network; maps are averaged over positions first. This loss trains both embeddings. Correlations are taken
    between all samples of the batch, of all processes together, also samples without a label.

    This is the paper's form, the Taylor series of a Gaussian kernel; widespread code multiplies the differences of
    neighbouring samples instead. The paper adds KD: combine both methods for that. Nothing prevents the two trained
    embeddings from agreeing on vectors without content: the loss can fall although the student learns nothing.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        dimension: The length of the embeddings; 128 in widespread code.
        gamma: The kernel's gamma; 0.4 in the paper.
        order: The order of the Taylor series; 2 in the paper.
        weight: The weight of the term; 0.02 is widely used beside cross entropy.
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
        check_weights(self.hard_weight, weight=weight)
        check_positive(gamma=gamma)
        check_at_least(1, order=order, dimension=dimension)
        self.gamma = gamma
        self.order = order
        self.weight = weight
        self.student_embeddings = nn.ModuleList(nn.LazyLinear(dimension) for _ in self.student_layers)
        self.teacher_embeddings = nn.ModuleList(nn.LazyLinear(dimension) for _ in self.teacher_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The difference between the correlations of student and teacher."""
        embeddings = zip(self.student_embeddings, self.teacher_embeddings, strict=True)
        values = []
        for modules, pair in zip(embeddings, feature_pairs(self, student, teacher), strict=True):
            embedded = (gather(embed(as_vector(feature))) for embed, feature in zip(modules, pair, strict=True))
            values.append(cc_loss(*embedded, gamma=self.gamma, order=self.order, teacher_gradient=True))
        return {"cc": self.weight * torch.stack(values).sum()}
