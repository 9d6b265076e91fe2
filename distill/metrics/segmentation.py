"""Scores of semantic segmentation: all those of LIX's tables from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from distill.checks import check_at_least
from distill.errors import UserError
from distill.metrics.accuracy import count_undefined
from distill.metrics.parts.names import check_names


class SegmentationScores(MulticlassConfusionMatrix):
    r"""The scores of a semantic segmentation, in [0, 1], from one confusion matrix over all pixels.

    With the true positives, false positives and false negatives of class c over all pixels of all images and
    processes, and its share :math:`f_c` of the labelled pixels,

    .. math::
        \mathrm{Fsc}_c = \frac{2 TP_c}{2 TP_c + FP_c + FN_c}, \quad
        \mathrm{IoU}_c = \frac{TP_c}{TP_c + FP_c + FN_c}

    ``mFsc`` and ``mIoU`` are their means over the classes, ``fwFsc`` and ``fwIoU`` their means weighted by :math:`f_c`.
    ``accuracy`` is the share of correct pixels, ``iou_<class>`` the IoU of one class. A class that is neither labelled
    nor predicted anywhere has no score (NaN) and does not count in the means. States are integer counts, so the scores
    are exact for any batches and processes. All scores are NaN if the logits of a labelled pixel are undefined: one of
    them is NaN, or all are -inf.

    Args:
        num_classes: C, at least 2.
        ignore_index: Pixels with this target do not count.
        class_names: The names of the classes, by default their numbers.
        **kwargs: As in :class:`torchmetrics.Metric`.

    Raises:
        ValueError: The number of names is not that of the classes, or two names are equal; on update, the shapes do
            not belong together, or the logits are of another number of classes.

    Shapes of ``update``: logits ``(N, C, *)`` or class indices ``(N, *)``, and target ``(N, *)``.

    Source: Guo et al., LIX, Sec. IV-A.

    Example:
        >>> scores = SegmentationScores(2)
        >>> scores.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 255]]))
        >>> {name: round(value.item(), 3) for name, value in scores.compute().items()}
        {'mFsc': 0.667, 'fwFsc': 0.667, 'mIoU': 0.5, 'fwIoU': 0.5, 'accuracy': 0.667, 'iou_0': 0.5, 'iou_1': 0.5}
    """

    undefined: Tensor

    def __init__(
        self, num_classes: int, ignore_index: int = 255, class_names: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        check_at_least(2, num_classes=num_classes)
        names = check_names(class_names or [str(index) for index in range(num_classes)], num_classes)
        # the task has checked shapes and labels; a check here would sort all pixels in every step
        super().__init__(num_classes, ignore_index=ignore_index, validate_args=False, **kwargs)
        self.class_names = names
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds logits ``(N, C, *)`` or class indices ``(N, *)``, and targets ``(N, *)``."""
        if preds.is_floating_point():
            if preds.ndim < 2 or preds.shape[:1] + preds.shape[2:] != target.shape:
                raise UserError(
                    f"logits must have shape (N, {self.num_classes}, *) for targets (N, *), got {tuple(preds.shape)} "
                    f"and {tuple(target.shape)}"
                )
            if preds.shape[1] != self.num_classes:
                raise UserError(f"there are {preds.shape[1]} logits a pixel for {self.num_classes} classes")
            self.undefined = self.undefined + count_undefined(preds, target, self.ignore_index)
        elif preds.shape != target.shape:
            raise UserError(
                f"predicted classes must have the shape of the target, {tuple(target.shape)}, got {tuple(preds.shape)}"
            )
        super().update(preds, target)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """All scores by name, float64 scalars; NaN if no pixel was labelled, or the logits of one are undefined."""
        counts = torch.where(self.undefined > 0, torch.nan, self.confmat.double())
        labelled, predicted, right = counts.sum(1), counts.sum(0), counts.diag()
        f_score = 2 * right / (labelled + predicted)
        iou = right / (labelled + predicted - right)
        share = labelled / labelled.sum()
        return {
            "mFsc": f_score.nanmean(),
            "fwFsc": _weighted(f_score, share),
            "mIoU": iou.nanmean(),
            "fwIoU": _weighted(iou, share),
            "accuracy": right.sum() / labelled.sum(),
            **{f"iou_{name}": value for name, value in zip(self.class_names, iou, strict=True)},
        }


def _weighted(scores: Tensor, share: Tensor) -> Tensor:
    return torch.where(share == 0, 0, share * scores).sum()
