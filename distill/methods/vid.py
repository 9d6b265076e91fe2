"""VID: the student's features predict the teacher's, with a variance for each channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_weights
from distill.losses import vid_loss
from distill.losses.parts.pooling import to_common_size
from distill.methods.parts.adaptors import PointwiseMLP
from distill.methods.parts.pairs import feature_pairs, require_pairs
from distill.training.optimization import ParameterSettings

FIRST_VARIANCE = 5.0
LEAST_VARIANCE = 1e-5


class VID(DistillationModule):
    """Variational information distillation (Ahn et al., CVPR 2019, Sec. 2).

    Needs: pairs of layers.

    Trains: a regressor of three convolutions for each pair, and variances.

    ``hard_weight * CE + weight * sum over the pairs of layers of -log q(teacher | student)``, a bound of their mutual
    information, where q is a Gaussian. Three 1x1 convolutions with ReLU between them compute its mean from the
    student's features. Its variance is the same at all positions of a channel: the softplus of a trained scale plus
    1e-5, which starts at 5. Features may be maps or vectors; if two maps differ in size, the larger one is pooled
    (:func:`~distill.losses.parts.pooling.to_common_size`).

    The paper sums over channels and positions; here, as in published code, it is the mean, see
    :func:`~distill.losses.vid_loss`. The authors' convolutions have batch normalisation; without it, as here, a sample
    does not depend on the others of its batch. Weight decay would pull the variances to softplus(0), so the scales have
    none.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        weight: The weight of the term; 1 in published code that compares methods, lambda in the paper.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers.
    """

    def __init__(self, *args: Any, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        check_weights(self.hard_weight, weight=weight)
        self.weight = weight
        self.regressors = nn.ModuleList(PointwiseMLP(3) for _ in self.student_layers)
        self.variances = nn.ModuleList(_Variance() for _ in self.student_layers)

    def parameter_settings(self) -> Sequence[ParameterSettings]:
        """No weight decay for the scales of the variances."""
        return [(scale, {"weight_decay": 0.0}) for scale in self.variances.parameters()]

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The negative log-likelihood, summed over the pairs of layers, for each sample."""
        parts = zip(self.regressors, self.variances, feature_pairs(self, student, teacher), strict=True)
        values = []
        for regressor, variance, pair in parts:
            of_student, of_teacher = to_common_size(*pair)
            predicted_mean = regressor(of_student, of_teacher.shape[1])
            values.append(vid_loss(predicted_mean, of_teacher, variance(of_teacher), reduction="none"))
        return {"vid": self.weight * torch.stack(values).sum(0)}


class _Variance(LazyModuleMixin, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor = UninitializedParameter()

    def initialize_parameters(self, feature: Tensor) -> None:
        """One scale for each channel."""
        if isinstance(self.scale, UninitializedParameter):
            self.scale.materialize((feature.shape[1],))
            nn.init.constant_(self.scale, math.log(math.expm1(FIRST_VARIANCE - LEAST_VARIANCE)))

    def forward(self, feature: Tensor) -> Tensor:
        """The variance of every channel of a feature, ``(C,)``."""
        return F.softplus(self.scale) + LEAST_VARIANCE
