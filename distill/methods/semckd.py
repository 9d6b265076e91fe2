"""SemCKD: attention decides how much each layer of the teacher teaches each layer of the student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_weights
from distill.errors import UserError
from distill.losses import semckd_loss
from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pooling import as_vector, pooled_to_fit
from distill.methods.parts.regressor import Regressor


class SemCKD(DistillationModule):
    """Cross-layer distillation with semantic calibration (Chen et al., AAAI 2021).

    Needs: layers of both networks, any number of each.

    Trains: queries, keys, and a regressor for every layer of the student with every layer of the teacher.

    ``hard_weight * CE + weight * sum over all pairs of layers of attention * mean squared error``, divided by the
    number of the student's layers. A 1x1 convolution with batch normalisation
    (:class:`~distill.methods.parts.regressor.Regressor`) projects each layer of the student to the channels of each
    layer of the teacher; the authors' projections have three convolutions. If two maps differ in size, the larger one
    is pooled (:func:`~distill.losses.parts.pooling.to_common_size`), the student's before its projection, as in the
    authors' code. For each sample, the attention of a layer of the student is a softmax over the teacher's layers of
    the products of its query with their keys.

    The authors compute queries and keys from the similarities of a sample with all samples of its batch. The batch size
    is then the input size of a layer, so all batches must have the same size. Here queries and keys are computed from
    the features, averaged over positions, by two linear layers with a ReLU between them, and have length 1.

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
        check_at_least(1, embedding_dim=embedding_dim)
        check_weights(self.hard_weight, weight=weight)
        self.weight = weight
        self.queries = nn.ModuleList(_embedding(embedding_dim) for _ in self.student_layers)
        self.keys = nn.ModuleList(_embedding(embedding_dim) for _ in self.teacher_layers)
        self.projections = nn.ModuleList(
            nn.ModuleList(Regressor() for _ in self.teacher_layers) for _ in self.student_layers
        )

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The weighted sum of the errors of all pairs of layers, for each sample."""
        of_student, of_teacher = student.at(self.student_layers), teacher.at(self.teacher_layers)
        projected = [
            [
                project(pooled_to_fit(feature, target), target.shape[1])
                for project, target in zip(row.children(), of_teacher, strict=True)
            ]
            for row, feature in zip(self.projections, of_student, strict=True)
        ]
        # (N, A, D) @ (N, D, B)
        attention = (_embedded(self.queries, of_student) @ _embedded(self.keys, of_teacher).mT).softmax(-1)
        return {"semckd": self.weight * semckd_loss(projected, of_teacher, attention, reduction="none")}


def _embedding(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))


def _embedded(embeddings: nn.ModuleList, features: list[Tensor]) -> Tensor:
    """The queries or keys of all layers, ``(N, layers, D)``, of length 1."""
    pairs = zip(embeddings, features, strict=True)
    return unit_vectors(torch.stack([embed(as_vector(feature)) for embed, feature in pairs], 1))
