"""Segmentation that is scored by the Dice coefficients of regions, as the BraTS challenge scores brain tumours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from distill.checks import check_at_least
from distill.errors import UserError
from distill.losses import dice_loss
from distill.metrics import RegionDice
from distill.tasks.semantic_segmentation import SemanticSegmentation

BRATS_REGIONS: Mapping[str, Sequence[int]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
"""Whole tumour, tumour core and enhancing tumour, by the classes NCR 1, ED 2 and ET 3."""


class RegionSegmentation(SemanticSegmentation):
    """One of ``num_classes`` classes for each position, scored by regions, which are unions of classes.

    The hard loss of a position is the cross entropy plus ``dice_weight`` times the soft Dice loss of its sample
    (:func:`~distill.losses.dice_loss`), as in nnU-Net (Isensee et al., Nature Methods 2021): small classes count as
    much as large ones. Beside the scores of :class:`SemanticSegmentation` there are ``dice_<region>`` and their mean
    ``dice`` (:class:`~distill.metrics.RegionDice`), each a mean over samples; ``val/dice`` picks the best epoch. The
    scores of a challenge are over whole volumes, so evaluate on these, not on patches.

    Args:
        num_classes: C, the number of classes with the background, which is class 0.
        regions: The classes of each region by the region's name; by default whole tumour, tumour core and enhancing
            tumour of BraTS.
        dice_weight: The weight of the soft Dice loss beside the cross entropy; 1 in nnU-Net.
        **kwargs: Further arguments of :class:`SemanticSegmentation`.

    Raises:
        ValueError: An argument is out of its range, there is no region, or a region has no class, a class twice, or
            one that the task lacks.
    """

    monitor = "val/dice"

    def __init__(
        self,
        num_classes: int = 4,
        regions: Mapping[str, Sequence[int]] = BRATS_REGIONS,
        dice_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_at_least(0, dice_weight=dice_weight)
        super().__init__(num_classes, **kwargs)
        self.regions = RegionDice(regions).regions  # which checks them
        self.dice_weight = dice_weight
        for name, classes in self.regions.items():
            if max(classes) >= num_classes:
                raise UserError(
                    f"regions: {name} has class {max(classes)}, but the task has the classes 0 to {num_classes - 1}"
                )

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross entropy plus the sample's soft Dice loss, of logits ``(N, C, *)``, ``(N, *)``; 0 where ignored."""
        losses = super().loss(prediction, target)
        dice = dice_loss(self.at_targets(prediction, target), target, ignore_index=self.ignore_index, reduction="none")
        return losses + self.dice_weight * dice.view(-1, *[1] * (losses.ndim - 1)) * self.counts(target)

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.SegmentationScores` and :class:`~distill.metrics.RegionDice`."""
        metrics = super().metrics()
        metrics.add_metrics([RegionDice(self.regions, self.ignore_index)])
        return metrics
