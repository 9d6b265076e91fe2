"""2DPASS: at every scale a prediction from the student's features follows one from both networks' features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_weights
from distill.errors import UserError
from distill.losses import kd_loss, lovasz_loss
from distill.losses.parts.logits import where_counted
from distill.losses.parts.pooling import as_vector, to_common_size, with_dims_of
from distill.methods.parts.adaptors import PointwiseMLP
from distill.methods.parts.classes import target_classes
from distill.methods.parts.pairs import feature_pairs, require_pairs
from distill.tasks.parts.resizing import resized
from distill.weighting import SampleWeighting


class TwoDPASS(DistillationModule):
    """2D priors assisted semantic segmentation (Yan et al., ECCV 2022, arXiv:2207.04397, Sec. 3, MSFSKD).

    Needs: ``target``, pairs of layers.

    Trains: a 2D learner, a fusion with its gate and two classifiers for each pair.

    ``hard_weight * CE + the mean over the pairs of layers of (head_weight * (CE + CE') + lovasz_weight * (Lovász +
    Lovász') + weight * w * KL(fused || single))``. Each scale has two classifiers (:class:`FusionToSingle`). One reads
    the fused features of camera and lidar; the other reads the features of the lidar alone, enhanced by the part that
    the fusion takes from them. Both learn from the labels, and the second also learns from the first, whose prediction
    is a constant. So the lidar's network learns from the image and keeps what only it knows. The classifiers are used
    in training only.

    Four things differ from the paper. The camera's network is the frozen teacher and does not learn beside the student.
    Both networks see dense views from the camera; the paper's student is a SPVCNN of sparse convolutions on voxels.
    Features keep the resolutions of their layers: the larger feature is pooled
    (:func:`~distill.losses.parts.pooling.to_common_size`), and logits are brought to the labels' size: interpolated
    linearly along each dim that is smaller, averaged along each that is larger. The cross entropy has no class weights,
    the Lovász loss is computed for each sample, and the student's own prediction has the task's loss.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs,
            one for each scale; the paper has four. Features are maps with as many spatial dims as the prediction; if
            there is one prediction a sample, they may also be vectors.
        weight: The weight of the divergence; 0.05 in the paper.
        head_weight: The weight of the cross entropies of the two classifiers.
        lovasz_weight: The weight of their Lovász losses (:func:`~distill.losses.lovasz_loss`).
        weighting: Weights each sample or pixel of the divergence by what teacher and student predict for it;
            :class:`~distill.weighting.NontargetSampleMask` gives NTDH's Table IV.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers; from ``setup``: a pair
            has no positions for a prediction with positions.
    """

    def __init__(
        self,
        *args: Any,
        weight: float = 0.05,
        head_weight: float = 1.0,
        lovasz_weight: float = 1.0,
        weighting: SampleWeighting | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        check_weights(self.hard_weight, weight=weight, head_weight=head_weight, lovasz_weight=lovasz_weight)
        self.weight = weight
        self.head_weight = head_weight
        self.lovasz_weight = lovasz_weight
        self.weighting = weighting
        self.scales = nn.ModuleList(FusionToSingle() for _ in self.student_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The three terms, as means over the scales."""
        target = target_classes(self, batch)
        counted = target != self.ignore_index
        labelled: Any = {"target": target, "ignore_index": self.ignore_index, "reduction": "none"}
        divergences, heads = [], []
        for scale, pair in zip(self.scales, feature_pairs(self, student, teacher), strict=True):
            both = scale(*to_common_size(*pair), student.prediction.shape[1])
            single, fused = (where_counted(_as_prediction(logits, student.prediction), counted) for logits in both)
            divergences.append(kd_loss(single, fused, **labelled))
            heads += [single, fused]
        divergence = torch.stack(divergences).mean(0)
        if self.weighting is not None:
            divergence = divergence * self.weighting(student.prediction, teacher.prediction, batch)
        entropy = torch.stack([F.cross_entropy(head, **labelled) for head in heads]).sum(0) / len(divergences)
        terms = {"kl": self.weight * divergence, "ce": self.head_weight * entropy}
        if self.lovasz_weight:
            lovasz = torch.stack([lovasz_loss(head, **labelled) for head in heads]).sum(0) / len(divergences)
            terms["lovasz"] = self.lovasz_weight * lovasz
        return terms


class FusionToSingle(nn.Module):
    r"""The two classifiers of one scale, for the fused features and for the student's alone.

    .. math::
        G = \mathrm{MLP}(F^{3D}), \quad H = \mathrm{MLP}([F^{2D}, G]), \quad
        \hat{F}^{2D3D} = F^{2D} + \sigma(\mathrm{MLP}(H)) \odot H, \quad
        \hat{F}^{3D} = F^{3D} + G

    G is the output of the paper's 2D learner. Each MLP has two layers with a ReLU between them; the classifiers are
    linear. All work on each position alone, so that no sample depends on the others of its batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.learner = PointwiseMLP(2)
        self.fusion = PointwiseMLP(2)
        self.gate = PointwiseMLP(2)
        self.single_head = PointwiseMLP(1)
        self.fused_head = PointwiseMLP(1)

    def forward(self, student: Tensor, teacher: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Logits of the student's features alone and of the fused features, ``(N, classes, *)`` each.

        Args:
            student: The student's features, ``(N, C, *)``.
            teacher: The teacher's features, ``(N, D, *)`` with the same positions.
            classes: The number of logits at each position.
        """
        learned = self.learner(student, student.shape[1])
        both = self.fusion(torch.cat([teacher, learned], 1), teacher.shape[1])
        fused = teacher + self.gate(both, teacher.shape[1]).sigmoid() * both
        return self.single_head(student + learned, classes), self.fused_head(fused, classes)


def _as_prediction(logits: Tensor, prediction: Tensor) -> Tensor:
    """Logits ``(N, C, *)`` in the size of a prediction: interpolated, or, for ``(N, C)``, averaged."""
    if prediction.ndim == 2:
        return as_vector(logits)
    with_its_dims = with_dims_of(logits, prediction)
    if with_its_dims.ndim != prediction.ndim:
        raise UserError(
            f"TwoDPASS predicts classes at the positions of {tuple(prediction.shape)}, but its pair of layers has the "
            f"positions {tuple(logits.shape[2:])}: name layers with as many spatial dims as the prediction"
        )
    return resized(with_its_dims, prediction.shape[2:])
