"""FSP: two layers of the student have the same Gram matrix as two layers of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from distill.base import Batch, NetworkOutput
from distill.checks import check_positive
from distill.errors import UserError
from distill.losses import fsp_loss, fsp_matrix
from distill.methods.parts.adaptors import convolve_pointwise
from distill.methods.parts.pairs import comparing_positions, feature_pairs, require_pairs
from distill.methods.parts.staged import StagedDistillation


class FSP(StagedDistillation):
    """A gift from knowledge distillation: the flow of the solution procedure (Yim et al., CVPR 2017, eqs. 1 and 2).

    Needs: maps, two layers for each matrix.

    Trains: a 1x1 convolution for each layer whose channel counts differ, in the first stage.

    The first ``stage_one_epochs`` train the student on
    ``weight * sum over the pairs of layers (first, second) of the squared difference of their FSP matrices``. The
    difference is a mean over the entries; eq. 2 prints the sum. After them the student trains on ``hard_weight * CE``
    alone.

    The paper chooses networks with equal channel counts. If the counts of a layer differ, a trained 1x1 convolution
    brings the student's channels to the teacher's; it is not used after the first stage.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are feature
            maps ``(N, C, *)``. The first two layers make one FSP matrix, the next two another, and so on; in the paper
            the first and the last layer of each of three groups of residual blocks. Teacher and student may have maps
            of different kinds, because a matrix compares layers of one network.
        stage_one_epochs: The number of epochs of the first stage; 30 in published code.
        weight: The weight of the term, the only one in the first stage. The paper gives all pairs the same weight and
            names no value; with 1, the value of published code, a mean over entries trains the student slowly.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, an odd number of them, teacher and student have different numbers of layers, or
            ``hard_weight`` is 0; and as :class:`~distill.methods.parts.staged.StagedDistillation` does. From ``setup``:
            the layers of a matrix share no positions.
    """

    def __init__(self, *args: Any, stage_one_epochs: int = 30, weight: float = 10.0, **kwargs: Any) -> None:
        super().__init__(*args, stage_one_epochs=stage_one_epochs, **kwargs)
        require_pairs(self)
        if len(self.student_layers) % 2:
            raise UserError(
                f"FSP compares what lies between two layers, but there are {len(self.student_layers)} student_layers: "
                "name a first and a second of each pair"
            )
        self._require_hard_loss()
        check_positive(weight=weight)
        self.weight = weight
        self.convolutions = nn.ModuleList(_ChannelMatch() for _ in self.student_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 2 for each sample; 0 in the second stage."""
        if not self.in_stage_one:
            return {"fsp": student.prediction.new_zeros(())}
        pairs = zip(self.convolutions, feature_pairs(self, student, teacher), strict=True)
        of_student, of_teacher = zip(
            *((match(one, other.shape[1]), other) for match, (one, other) in pairs), strict=True
        )
        matrices = (
            self._matrices("student", self.student_layers, of_student),
            self._matrices("teacher", self.teacher_layers, of_teacher),
        )
        values = [fsp_loss(*pair, reduction="none") for pair in zip(*matrices, strict=True)]
        return {"fsp": self.weight * torch.stack(values).sum(0)}

    def _matrices(self, side: str, layers: Sequence[str], features: Sequence[Tensor]) -> list[Tensor]:
        """The matrices of a network, one for each two layers."""
        matrices = []
        for first in range(0, len(layers), 2):
            with comparing_positions(self, f"{side} layers {layers[first]!r} and {layers[first + 1]!r}"):
                matrices.append(fsp_matrix(*features[first : first + 2]))
        return matrices


class _ChannelMatch(LazyModuleMixin, nn.Module):
    """A 1x1 convolution to a number of channels, or the identity without parameters if the feature has that number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor | None = UninitializedParameter()

    def initialize_parameters(self, feature: Tensor, channels: int) -> None:
        """Makes the weight, or removes it."""
        if feature.shape[1] == channels:
            self.weight = None
        elif isinstance(self.weight, UninitializedParameter):
            self.weight.materialize((channels, feature.shape[1], 1, 1))
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, feature: Tensor, channels: int) -> Tensor:
        """``(N, C, *)`` to ``(N, channels, *)``."""
        return feature if self.weight is None else convolve_pointwise(feature, self.weight)
