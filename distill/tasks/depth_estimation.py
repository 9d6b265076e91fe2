"""Depth estimation: the distance of each pixel."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MetricCollection

from distill.checks import check_at_least
from distill.errors import UserError
from distill.losses import silog_loss
from distill.metrics import DepthScores
from distill.metrics.depth import Average, Crop
from distill.tasks.parts.resizing import is_smaller, resized
from distill.tasks.task import Task


class DepthEstimation(Task):
    """The distance in metres of each pixel along the optical axis.

    Predictions and targets are depth ``(N, 1, H, W)``; a target of 0 means no ground truth. Smaller predictions are
    resized bilinearly to the target's size. The hard loss is :func:`~distill.losses.silog_loss`, one value per image;
    the metrics are those of :class:`~distill.metrics.DepthScores`; ``val/abs_rel`` picks the best epoch.

    Args:
        min_depth: The lowest depth in metres. Targets at or below it do not count, and scored predictions are clamped
            to it.
        max_depth: The highest depth in metres; 80 for KITTI, 10 for NYU Depth V2. Targets at or above it do not count,
            and scored predictions are clamped to it.
        crop: The part of the image that is scored: ``"garg"`` or ``"eigen"`` on KITTI, ``"nyu"`` on NYU Depth V2.
        ignore_top_rows: The number of top rows that all losses ignore; the scores count them. TIE-KD ignores 110 of 352
            rows, because lidar points are rare there and teachers guess.
        average: Whether scores are means over images, as in the papers, or over all pixels.

    Raises:
        ValueError: An argument is out of its range.
    """

    monitor = "val/abs_rel"
    mode = "min"
    ignore_index = 0

    def __init__(
        self,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        crop: Crop | None = None,
        ignore_top_rows: int = 0,
        average: Average = "image",
    ) -> None:
        super().__init__()
        check_at_least(0, ignore_top_rows=ignore_top_rows)
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.crop = crop
        self.ignore_top_rows = ignore_top_rows
        self.average = average
        self.metrics()  # raises an error if the range, the crop or the average is not valid

    def check_network(self, network: nn.Module, *, model: str) -> None:
        """Raises a ValueError if the network, or a network inside it, was built for another range of depths."""
        for part in network.modules():
            for name in ("min_depth", "max_depth"):
                expected, found = getattr(self, name), getattr(part, name, None)
                if found is not None and found != expected:
                    raise UserError(f"the {model} has {name}={found}, but the task has {name}={expected}")

    def at_targets(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Depth ``(N, 1, h, w)`` as ``(N, 1, H, W)``, enlarged bilinearly if it is smaller than the target."""
        if prediction.ndim != 4 or target.ndim != 4 or not is_smaller(prediction.shape[2:], target.shape[2:]):
            return prediction
        return resized(prediction, target.shape[2:])

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The scale-invariant error of depths ``(N, 1, H, W)``, ``(N,)``; 0 for an image without ground truth."""
        rows = slice(self.ignore_top_rows, None)
        counted = self.counts(target)[:, None] > 0
        return silog_loss(
            self.at_targets(prediction, target)[:, :, rows],
            target.where(counted, 0)[:, :, rows].to(prediction.dtype),
            reduction="none",
        )

    def counts(self, target: Tensor) -> Tensor:
        """1 for every pixel below the ignored rows with a depth in the range, 0 for the others, ``(N, H, W)``."""
        counted = (target > self.min_depth) & (target < self.max_depth)
        counted[:, :, : self.ignore_top_rows] = False
        return counted[:, 0].float()

    def metrics(self) -> MetricCollection:
        """All scores of :class:`~distill.metrics.DepthScores`."""
        return MetricCollection([DepthScores(self.min_depth, self.max_depth, self.crop, self.average)])

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        """Raises a ValueError unless both hold one depth per pixel and the target's depths are 0 or more."""
        if prediction.ndim != 4 or prediction.shape[1] != 1:
            raise UserError(
                f"{model} returns a prediction of shape {tuple(prediction.shape)}, but DepthEstimation() takes depth "
                "of shape (N, 1, H, W)"
            )
        if not prediction.isfinite().all():
            raise UserError(f"{model} returns depth that is NaN or infinite")
        if target.ndim != 4 or target.shape[:2] != (len(prediction), 1) or not target.is_floating_point():
            raise UserError(
                f"{data}: target must hold one depth in metres per pixel, floats of shape ({len(prediction)}, 1, H, W)"
                f", got {target.dtype} of shape {tuple(target.shape)}"
            )
        if prediction.shape[2:] != target.shape[2:]:
            raise UserError(
                f"{model} returns depth of {tuple(prediction.shape[2:])} pixels, more than the target's "
                f"{tuple(target.shape[2:])}: only smaller maps are resized"
            )
        if not (target >= 0).all():
            raise UserError(f"{data}: target must hold metres, and 0 for no ground truth, got negative or NaN values")
        if self.ignore_top_rows >= target.shape[2]:
            raise UserError(f"ignore_top_rows={self.ignore_top_rows} leaves none of the {target.shape[2]} rows")
