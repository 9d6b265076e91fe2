"""The Dice coefficient of regions that are unions of classes, as the BraTS challenge scores tumours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.errors import UserError
from distill.metrics.accuracy import count_undefined


class RegionDice(Metric):
    r"""The Dice coefficient of each region in each sample, in [0, 1], a mean over the samples.

    A region is a union of classes, and regions may overlap. With the positions P that are predicted to be in a region
    and the positions T that are labelled so, in one sample,

    .. math::
        \mathrm{Dice} = \frac{2 |P \cap T|}{|P| + |T|},

    and 1 if both are empty, as the BraTS challenge counts it. ``dice_<region>`` is the mean over the samples, and
    ``dice`` the mean over the regions. A sample without a labelled position does not count. All scores are NaN if the
    logits of a labelled position are undefined.

    Args:
        regions: The classes of each region by the region's name.
        ignore_index: Positions with this target do not count.
        **kwargs: As in :class:`torchmetrics.Metric`.

    Raises:
        ValueError: There is no region, or a region has no class, a class twice, or one below 0.

    Shapes of ``update``: logits ``(N, C, *)`` or class indices ``(N, *)``, and target ``(N, *)``.

    Source: Menze et al., The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS), IEEE TMI 2015, Sec. III.

    Example:
        >>> dice = RegionDice({"whole": [1, 2], "core": [2]})
        >>> dice.update(torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 2, 2, 0]]))
        >>> {name: round(value.item(), 3) for name, value in dice.compute().items()}
        {'dice': 0.65, 'dice_whole': 0.8, 'dice_core': 0.5}
    """

    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self, regions: Mapping[str, Sequence[int]], ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(regions, Mapping) or not regions:
            raise UserError(
                f"regions must name the classes of one or more regions, such as {{'WT': [1, 2, 3]}}, got {regions}"
            )
        for name, classes in regions.items():
            listed = isinstance(classes, Sequence) and all(isinstance(part, int) and part >= 0 for part in classes)
            if not listed or not classes or len(set(classes)) < len(classes):
                raise UserError(f"regions: {name} must be one or more different classes, got {classes!r}")
        self.regions = {name: tuple(classes) for name, classes in regions.items()}
        self.ignore_index = ignore_index
        self.add_state("total", torch.zeros(len(regions), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds logits ``(N, C, *)`` or class indices ``(N, *)``, and targets ``(N, *)``."""
        if preds.is_floating_point():
            self.undefined = self.undefined + count_undefined(preds, target, self.ignore_index)
            preds = preds.argmax(1)
        if preds.shape != target.shape:
            raise UserError(
                f"predicted classes must have the shape of the target, {tuple(target.shape)}, got {tuple(preds.shape)}"
            )
        counted = (target != self.ignore_index).flatten(1)
        labelled = counted.any(1)
        for position, classes in enumerate(self.regions.values()):
            members = torch.tensor(classes, device=target.device)
            predicted, true = (torch.isin(part.flatten(1), members) & counted for part in (preds, target))
            size = predicted.sum(1) + true.sum(1)
            dice = torch.where(size > 0, 2 * (predicted & true).sum(1) / size.clamp(min=1).to(self.total.dtype), 1)
            self.total[position] += (dice * labelled).sum()
        self.count = self.count + labelled.sum()

    def compute(self) -> dict[str, Tensor]:
        """All scores by name; NaN if no position was labelled, or the logits of one are undefined."""
        dice = torch.where(self.undefined > 0, torch.nan, self.total / self.count)
        return {"dice": dice.mean(), **{f"dice_{name}": dice[i] for i, name in enumerate(self.regions)}}
