"""FSP: from one layer to a later one, the student's features flow as the teacher's do."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from distill.base import Batch, NetworkOutput
from distill.errors import UserError
from distill.losses import fsp_loss, fsp_matrix
from distill.methods.parts.pairs import feature_pairs, require_pairs
from distill.methods.parts.staged import StagedDistillation


class FSP(StagedDistillation):
    """A gift from knowledge distillation: the flow of the solution procedure (Yim et al., CVPR 2017, eqs. 1 and 2).

    The first ``stage_one_epochs`` train the student on
    ``weight * sum over the pairs of layers (first, second) of the squared difference of their FSP matrices``, taken as
    a mean over their entries; eq. 2 prints the sum. After them it trains on ``hard_weight * CE`` alone.

    The paper chooses networks with equal channel counts. Where a layer's counts differ, a trained 1x1 convolution
    brings the student's to the teacher's; it is done with after the first stage.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; of ``teacher_layers`` and ``student_layers``, feature
            maps ``(N, C, H, W)``, the first two make one FSP matrix, the next two another, and so on. In the paper they
            are the first and the last layer of each of three groups of residual blocks.
        stage_one_epochs: The length of the first stage. 30 in published code.
        weight: The weight of the term, which has the first stage to itself. The paper weighs all pairs alike and names
            no value; with 1, that of published code, a mean over entries moves the student but slowly.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, an odd number of them, teacher and student have different numbers of layers, or
            ``hard_weight`` is 0; and as :class:`~distill.methods.parts.staged.StagedDistillation` does. From ``setup``:
            a layer has no positions.
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
        self.weight = weight
        self.convolutions = nn.ModuleList(_ChannelMatch() for _ in self.student_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 2 for each sample; 0 in the second stage."""
        if not self.in_stage_one:
            return {"fsp": student.prediction.new_zeros(())}
        pairs = zip(self.convolutions, feature_pairs(self, student, teacher), strict=True)
        layers = [(match(ours, theirs.shape[1]), theirs) for match, (ours, theirs) in pairs]
        values = []
        for (first, their_first), (second, their_second) in zip(layers[::2], layers[1::2], strict=True):
            matrices = fsp_matrix(first, second), fsp_matrix(their_first, their_second)
            values.append(fsp_loss(*matrices, reduction="none"))
        return {"fsp": self.weight * torch.stack(values).sum(0)}


class _ChannelMatch(LazyModuleMixin, nn.Module):
    """A 1x1 convolution to a number of channels; nothing, and without parameters, where they are as many already."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor | None = UninitializedParameter()

    def initialize_parameters(self, feature: Tensor, channels: int) -> None:
        """Makes the weight, or does away with it."""
        if feature.shape[1] == channels:
            self.weight = None
        elif isinstance(self.weight, UninitializedParameter):
            self.weight.materialize((channels, feature.shape[1], 1, 1))
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, feature: Tensor, channels: int) -> Tensor:
        """``(N, C, H, W)`` to ``(N, channels, H, W)``."""
        return feature if self.weight is None else F.conv2d(feature, self.weight)
