"""Scores of estimated depth: all those of the papers in one pass."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from distill.checks import check_at_least, check_finite, check_option
from distill.errors import UserError

Crop = Literal["garg", "eigen", "nyu"]
Average = Literal["image", "pixel"]

# top, bottom, left and right of the region that counts, as shares of height and width
CROPS: dict[Crop, tuple[float | Fraction, float | Fraction, float | Fraction, float | Fraction]] = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.03594771, 0.96405229),
    # pixels of 480 x 640; as floats, these shares of 480 and 640 would be rounded below whole numbers
    "nyu": (Fraction(45, 480), Fraction(471, 480), Fraction(41, 640), Fraction(601, 640)),
}


class DepthScores(Metric):
    r"""The scores of estimated depth d against measured depth :math:`d^*`, over the pixels that count.

    =========================================== ===================================================== ==========
    ``abs_rel``                                 mean of :math:`|d - d^*| / d^*`                       lower
    ``sq_rel``                                  mean of :math:`(d - d^*)^2 / d^*`, metres             lower
    ``rmse``                                    root of the mean of :math:`(d - d^*)^2`, metres       lower
    ``rmse_log``                                root of the mean of :math:`g^2`                       lower
    ``log10``                                   mean of :math:`|\log_{10} d - \log_{10} d^*|`         lower
    ``silog``                                   100 times the standard deviation of g                 lower
    ``delta1``, ``delta2``, ``delta3``          share with :math:`\max(d / d^*, d^* / d) < 1.25^k`    higher
    =========================================== ===================================================== ==========

    with :math:`g = \log d - \log d^*`. ``silog`` is the score of KITTI's toolkit and BTS,
    :math:`100 \sqrt{E(g^2) - E(g)^2}`. The loss :func:`distill.losses.silog_loss` differs: it keeps a part of the mean.

    A pixel counts if it lies inside the crop and ``min_depth`` < d* < ``max_depth``. Predictions are clamped to that
    range. A prediction that is no depth, 0 or less or infinite, is clamped as well, and ``compute`` warns of their
    number. If a prediction is NaN, the scores are NaN.

    There are two conventions for several images. ``image`` computes the scores of each image and averages them over the
    images with a pixel that counts: the protocol of Eigen et al. and TIE-KD. ``pixel`` computes the scores over all
    pixels of all images. They differ if images have different numbers of pixels; the roots always differ. Sums are in
    float64, so both are exact for any batches and processes. The scores need a device that has float64.

    Args:
        min_depth: In metres, above 0.
        max_depth: In metres; 80 on KITTI, 10 on NYU Depth v2.
        crop: ``garg`` (rows 143 to 348 and columns 43 to 1171 of 352 x 1216) or ``eigen`` for KITTI, ``nyu`` (rows 45
            to 470 and columns 41 to 600 of 480 x 640); shares of other sizes. All pixels by default.
        average: ``image`` or ``pixel``.
        ignore_top_rows: The number of upper rows that do not count; 110 of 352 in TIE-KD's comparison of students with
            teachers.
        **kwargs: As in :class:`torchmetrics.Metric`.

    Raises:
        ValueError: The range is empty or begins at 0, the crop or the average is unknown, or ``ignore_top_rows`` is
            negative; on update, the shapes differ or are of another form.

    Shapes of ``update``: prediction and target ``(N, 1, H, W)``, in metres.

    Source: Eigen et al., NeurIPS 2014, Sec. 4.3; crops of Garg et al., ECCV 2016, and Eigen et al.

    Example:
        >>> scores = DepthScores()
        >>> scores.update(torch.tensor([[[[2.0, 9.0, 5.0]]]]), torch.tensor([[[[2.0, 10.0, 0.0]]]]))
        >>> {name: round(value.item(), 3) for name, value in scores.compute().items() if name in ("abs_rel", "rmse")}
        {'abs_rel': 0.05, 'rmse': 0.707}
    """

    is_differentiable = False
    full_state_update = False

    sums: Tensor
    count: Tensor
    no_depth: Tensor

    def __init__(
        self,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        crop: Crop | None = None,
        average: Average = "image",
        ignore_top_rows: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_finite(min_depth=min_depth, max_depth=max_depth)
        if not 0 < min_depth < max_depth:
            raise UserError(f"min_depth must lie between 0 and max_depth, got {min_depth} and {max_depth}")
        check_option("crop", crop, [*CROPS, None])
        check_option("average", average, get_args(Average))
        check_at_least(0, ignore_top_rows=ignore_top_rows)
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.crop = crop
        self.average = average
        self.ignore_top_rows = ignore_top_rows
        # sums of scores and the number of images, or sums of errors and the number of pixels
        self.add_state("sums", torch.zeros(9, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("no_depth", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch of depth maps in metres, ``(N, 1, H, W)``; targets outside the range do not count."""
        if prediction.shape != target.shape or prediction.ndim != 4 or prediction.shape[1] != 1:
            raise UserError(
                "prediction and target must have the same shape (N, 1, H, W), got "
                f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        rows, columns = self._region(*target.shape[2:])
        for estimated, measured in zip(prediction[..., rows, columns], target[..., rows, columns], strict=True):
            valid = (measured > self.min_depth) & (measured < self.max_depth)
            pixels = valid.sum()
            if pixels == 0:
                continue
            estimated = estimated[valid]
            self.no_depth += ((estimated <= 0) | (estimated == torch.inf)).sum()
            errors = self._errors(estimated.double(), measured[valid].double())
            if self.average == "image":
                self.sums += _scores(errors / pixels)
                self.count += 1
            else:
                self.sums += errors
                self.count += pixels

    def compute(self) -> dict[str, Tensor]:
        """All scores by name, float64 scalars; NaN if no pixel counted or a prediction is NaN."""
        if self.no_depth > 0:
            rank_zero_warn(
                f"{int(self.no_depth)} scored predictions are no depth, but 0 or less or infinite: they are scored as "
                f"{self.min_depth} or {self.max_depth} m"
            )
        mean = self.sums / self.count
        scores = mean if self.average == "image" else _scores(mean)
        names = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
        return dict(zip(names, scores.unbind(), strict=True))

    def _region(self, height: int, width: int) -> tuple[slice, slice]:
        top, bottom, left, right = CROPS[self.crop] if self.crop else (0, 1, 0, 1)
        rows = slice(max(int(top * height), self.ignore_top_rows), int(bottom * height))
        return rows, slice(int(left * width), int(right * width))

    def _errors(self, estimated: Tensor, measured: Tensor) -> Tensor:
        """The sums over pixels ``(P,)`` of the errors whose means are the scores, ``(9,)``, in the scores' order."""
        estimated = estimated.clamp(self.min_depth, self.max_depth)
        difference = estimated - measured
        log_ratio = estimated.log() - measured.log()
        log10_error = estimated.log10().sub_(measured.log10()).abs_()
        ratio = torch.maximum(estimated / measured, measured / estimated)
        errors = [
            difference.abs() / measured,
            difference.square() / measured,
            difference.square(),
            log_ratio.square(),
            log10_error,
            log_ratio,
            *(ratio < 1.25**k for k in (1, 2, 3)),
        ]
        sums = torch.stack([error.sum(dtype=torch.float64) for error in errors])
        return sums + 0 * sums[0]  # a comparison would hide NaN


def _scores(means: Tensor) -> Tensor:
    """The scores ``(9,)`` from the means of the errors over pixels."""
    abs_rel, sq_rel, square, log_square, log10, log_ratio, *deltas = means.unbind()
    # rounding can take a variance of 0 below 0
    silog = 100 * (log_square - log_ratio.square()).clamp(min=0).sqrt()
    return torch.stack([abs_rel, sq_rel, square.sqrt(), log_square.sqrt(), log10, silog, *deltas])
