"""SemCKD: attention decides which of the teacher's layers teach which of the student's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.errors import UserError
from distill.losses import semckd_loss
from distill.losses.parts.pooling import pooled_to_fit
from distill.losses.parts.unit import unit_vectors
from distill.methods.parts.pairs import as_map
from distill.methods.parts.regressor import Regressor


class SemCKD(DistillationModule):
    """Cross-layer distillation with semantic calibration (Chen et al., AAAI 2021).

    ``hard_weight * CE + weight * sum over all pairs of layers of attention * mean squared error``, a mean over the
    student's layers. Each of these is projected to the channels of each of the teacher's by a 1x1 convolution with
    batch normalisation (:class:`~distill.methods.parts.regressor.Regressor`; the authors' projections have three
    convolutions). Of maps of two sizes the larger is pooled, the student's before it is projected, as in the authors'
    code. The attention of a student's layer is a softmax over the teacher's of the products of its query with their
    keys, for each sample.

    The authors make queries and keys from the similarities of a sample with all others of its batch, whose number then
    is the input size of a layer: no batch may have another. Here they are made from the features themselves, averaged
    over positions: two linear layers with ReLU between them, and length 1.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` may have
            different numbers of layers, maps or vectors.
        embedding_dim: The length of queries and keys; a quarter of the batch size in the authors' code.
        weight: The weight of the term; 400 in the authors' code.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: Teacher or student has no layers, or ``embedding_dim`` is not positive.
    """

    def __init__(self, *args: Any, embedding_dim: int = 128, weight: float = 400.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (self.teacher_layers and self.student_layers):
            raise UserError("SemCKD compares all layers with all: name one or more teacher_layers and student_layers")
        if embedding_dim < 1:
            raise UserError(f"embedding_dim must be positive, got {embedding_dim}")
        self.weight = weight
        self.queries = nn.ModuleList(_embedding(embedding_dim) for _ in self.student_layers)
        self.keys = nn.ModuleList(_embedding(embedding_dim) for _ in self.teacher_layers)
        self.projections = nn.ModuleList(
            nn.ModuleList(Regressor() for _ in self.teacher_layers) for _ in self.student_layers
        )

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The weighted errors of all pairs of layers, for each sample."""
        ours = [as_map(feature) for feature in student.at(self.student_layers)]
        theirs = [as_map(feature) for feature in teacher.at(self.teacher_layers)]
        projected = [
            [
                project(pooled_to_fit(feature, target), target.shape[1])
                for project, target in zip(row.children(), theirs, strict=True)
            ]
            for row, feature in zip(self.projections, ours, strict=True)
        ]
        # (N, A, D) @ (N, D, B)
        attention = (_embedded(self.queries, ours) @ _embedded(self.keys, theirs).mT).softmax(-1)
        return {"semckd": self.weight * semckd_loss(projected, theirs, attention, reduction="none")}


def _embedding(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))


def _embedded(embeddings: nn.ModuleList, features: list[Tensor]) -> Tensor:
    """The queries or keys of all layers, ``(N, layers, D)``, of length 1."""
    pooled = [feature.mean((2, 3)) for feature in features]
    return unit_vectors(torch.stack([embed(p) for embed, p in zip(embeddings, pooled, strict=True)], 1))
