"""2DPASS: at every scale the student's own prediction follows that of its features fused with the teacher's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.losses import kd_loss, lovasz_loss
from distill.losses.parts.logits import where_counted
from distill.losses.parts.pooling import to_common_size
from distill.methods.parts.adaptors import PointwiseMLP
from distill.methods.parts.pairs import as_map, as_vector, feature_pairs, require_pairs
from distill.weighting import SampleWeighting


class TwoDPASS(DistillationModule):
    """2D priors assisted semantic segmentation (Yan et al., ECCV 2022, arXiv:2207.04397, Sec. 3, MSFSKD).

    ``hard_weight * CE + the mean over the pairs of layers of (head_weight * (CE + CE') + lovasz_weight * (Lovász +
    Lovász') + weight * w * KL(fused || single))``. At each scale one classifier reads the camera's and the lidar's
    features fused and another the lidar's alone, enhanced by what the fusion takes from it
    (:class:`FusionToSingle`). Both learn from the labels, and the second from the first, which is a constant to it: so
    the lidar's network learns from the image, while what it knows of its own is kept. The classifiers are of use in
    training only.

    Unlike the paper: the camera's network is the frozen teacher and does not learn beside the student; both see dense
    views from the camera, where the paper's student is a SPVCNN of sparse convolutions on voxels; features are of their
    layers' resolutions, of which the larger is pooled, and logits are enlarged to the labels'. The cross entropy of the
    classes is not weighted, the Lovász loss is that of each sample, and the student's own prediction has the task's
    loss.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs,
            one for each scale, the paper has four. Features may be maps or vectors.
        weight: The weight of the divergence; 0.05 in the paper.
        head_weight: The weight of the cross entropies of the two classifiers.
        lovasz_weight: The weight of their Lovász losses (:func:`~distill.losses.lovasz_loss`).
        weighting: Weights each sample or pixel of the divergence by what teacher and student predict for it: with
            :class:`~distill.weighting.NontargetSampleMask` NTDH's Table IV.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers.
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
        self.weight = weight
        self.head_weight = head_weight
        self.lovasz_weight = lovasz_weight
        self.weighting = weighting
        self.scales = nn.ModuleList(FusionToSingle() for _ in self.student_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The three terms, means over the scales."""
        counted = batch["target"] != self.ignore_index
        labelled: Any = {"target": batch["target"], "ignore_index": self.ignore_index, "reduction": "none"}
        divergences, heads = [], []
        for scale, pair in zip(self.scales, feature_pairs(self, student, teacher), strict=True):
            both = scale(*to_common_size(*map(as_map, pair)), student.prediction.shape[1])
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

    G is what the paper calls the 2D learner's. Each MLP has two layers with a ReLU between them, the classifiers are
    linear; all are the same at every position, so that no sample depends on the others of its batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.learner = PointwiseMLP(2)
        self.fusion = PointwiseMLP(2)
        self.gate = PointwiseMLP(2)
        self.single_head = PointwiseMLP(1)
        self.fused_head = PointwiseMLP(1)

    def forward(self, ours: Tensor, theirs: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Logits of the student's features alone and of the fused ones, ``(N, classes, H, W)`` each.

        Args:
            ours: The student's features, ``(N, C, H, W)``.
            theirs: The teacher's, ``(N, D, H, W)``.
            classes: How many logits a position has.
        """
        learned = self.learner(ours, ours.shape[1])
        both = self.fusion(torch.cat([theirs, learned], 1), theirs.shape[1])
        fused = theirs + self.gate(both, theirs.shape[1]).sigmoid() * both
        return self.single_head(ours + learned, classes), self.fused_head(fused, classes)


def _as_prediction(logits: Tensor, prediction: Tensor) -> Tensor:
    """Logits ``(N, C, h, w)`` in the size of a prediction: enlarged bilinearly, or, for ``(N, C)``, averaged."""
    if prediction.ndim == 2:
        return as_vector(logits)
    if logits.shape == prediction.shape:
        return logits
    return F.interpolate(logits, prediction.shape[2:], mode="bilinear", align_corners=False)
