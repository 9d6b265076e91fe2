"""ARFD: a kernel recalibrates the features of both networks, then the student's follow the teacher's."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_weights
from distill.losses import consistency_loss, recalibrate
from distill.losses.arfd import Kernel, Measure
from distill.losses.parts.pooling import to_common_size
from distill.methods.parts.adaptors import Convolution
from distill.methods.parts.pairs import as_map, feature_pairs, require_pairs


class ARFD(DistillationModule):
    """Adaptively-recalibrated feature distillation (LIX, Guo et al., IEEE TIP 2025, arXiv:2403.08215, eqs. 13-20).

    Needs: pairs of layers.

    Trains: a 3x3 convolution for each layer of either network.

    ``hard_weight * CE + weight * sum over the pairs of layers of (1 - CKA)``. Both features of a pair are pooled to the
    smaller of their sizes (:func:`~distill.losses.parts.pooling.to_common_size`), brought to the teacher's number of
    channels by a 3x3 convolution, normalisation and ReLU (eq. 13), and recalibrated by a kernel (eqs. 14-17). Features
    may be vectors or maps, for which the convolution has as many dims as they have.

    The paper does not name the normalisation. Here all channels and pixels of a sample are normalised together
    (GroupNorm with one group, without parameters). Then no sample depends on the rest of its batch, and two processes
    with half a batch each have the same loss as one process with the whole batch.

    This loss trains both convolutions, as printed. Nothing prevents them from agreeing on features without content.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        kernel: The recalibration, see :func:`~distill.losses.recalibrate`; ``laplace`` in the paper.
        measure: The consistency, see :func:`~distill.losses.consistency_loss`; ``cka`` in the paper.
        weight: The weight of the term, lambda_F of eq. 21; the best of the paper's ratios to the hard loss is 1 : 2.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers.
    """

    def __init__(
        self,
        *args: Any,
        kernel: Kernel = "laplace",
        measure: Measure = "cka",
        weight: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        check_weights(self.hard_weight, weight=weight)
        self.kernel = kernel
        self.measure = measure
        self.weight = weight
        self.student_alignments = nn.ModuleList(Convolution() for _ in self.student_layers)
        self.teacher_alignments = nn.ModuleList(Convolution() for _ in self.teacher_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 20 for each sample."""
        alignments = zip(self.student_alignments, self.teacher_alignments, strict=True)
        values = []
        for alignment, pair in zip(alignments, feature_pairs(self, student, teacher), strict=True):
            features = [as_map(feature) for feature in to_common_size(*pair)]
            channels = features[1].shape[1]
            recalibrated = [
                recalibrate(_aligned(feature, channels, convolution), kernel=self.kernel)
                for feature, convolution in zip(features, alignment, strict=True)
            ]
            values.append(consistency_loss(*recalibrated, measure=self.measure, teacher_gradient=True))
        return {"arfd": self.weight * sum(values[1:], start=values[0])}


def _aligned(feature: Tensor, channels: int, convolution: nn.Module) -> Tensor:
    """Equation 13."""
    return F.relu(F.group_norm(convolution(feature, channels), 1))
