"""TIE-KD: the student's probabilities over depth bins follow the teacher's response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from distill.base import Batch, NetworkOutput
from distill.checks import check_positive, check_share, check_weights
from distill.distributed import mean
from distill.errors import UserError, UserKeyError
from distill.losses import dpm_loss, ssim_loss
from distill.losses.dpm import BinValue, Direction, Normalization
from distill.methods.parts.depth import DepthDistillation


class TIEKD(DepthDistillation):
    """Teacher-independent explainable distillation of depth (Choi et al., Image and Vision Computing 2024, eq. 4).

    Needs: depth; the student's layer with logits over bins.

    ``beta * (alpha * L_DPM + (1 - alpha) * L_depth)``. L_DPM is the divergence between the student's probabilities over
    bins of depth and a map made of the teacher's depth (eqs. 1, 2, 5). L_depth is 1 - SSIM of the two depths (eq. 6).
    The teacher may be any network that returns depth, also a stored one; no ground truth is used.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        student_layers: The one layer of the student that returns logits over the bins, ``(N, bins, H, W)``. The bins
            must divide the task's range evenly, as those of :class:`~distill.models.DepthUNet`.
        alpha: The weight of L_DPM against L_depth, 0 to 1; 0.1 in the paper.
        beta: The weight of both; 10 in the paper.
        sigma: The width of the teacher's map in metres; see :func:`~distill.losses.depth_probability_map`. 0.8 in the
            paper, whose released code trains with 0.5.
        bin_value: See :func:`~distill.losses.depth_probability_map`.
        normalization: See :func:`~distill.losses.depth_probability_map`.
        direction: The direction of the divergence; see :func:`~distill.losses.dpm_loss`.
        data_range: The range of depths in SSIM's constants, by default the task's highest depth. 1 gives the constants
            of the released code.
        **kwargs: As in :class:`~distill.methods.parts.depth.DepthDistillation`.

    Raises:
        ValueError: An argument is out of its range, or there is not one student layer.
    """

    def __init__(
        self,
        *args: Any,
        student_layers: Sequence[str] = ("bins",),
        alpha: float = 0.1,
        beta: float = 10.0,
        sigma: float = 0.8,
        bin_value: BinValue = "density",
        normalization: Normalization = "softmax",
        direction: Direction = "teacher_student",
        data_range: float | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(*args, student_layers=student_layers, **kwargs)
        except KeyError as error:
            raise UserKeyError(
                f"{error.args[0]} TIEKD learns from logits over bins: take a student that has them, as "
                "DepthUNet(bins=257), and name their layer in student_layers"
            ) from None
        if len(student_layers) != 1:
            raise UserError(f"student_layers must name the one layer with logits over bins, got {list(student_layers)}")
        check_share(alpha=alpha)
        check_weights(self.hard_weight, beta=beta)
        check_positive(sigma=sigma, data_range=data_range)
        self.alpha = alpha
        self.beta = beta
        self.sigma = sigma
        self.bin_value = bin_value
        self.normalization = normalization
        self.direction = direction
        self.data_range = data_range

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms of equation 4 with a weight above 0, as means over the pixels with a response of the teacher."""
        task = self.depth_task
        student_depth, teacher_depth = self.depths(teacher, student)
        (logits,) = student.at(self.student_layers)
        responded = ~(teacher_depth <= 0)[:, 0]  # NaN counts, so that it is not hidden
        terms = {}
        if self.alpha > 0:
            divergence = dpm_loss(
                logits,
                teacher_depth,
                min_depth=task.min_depth,
                max_depth=task.max_depth,
                sigma=self.sigma,
                bin_value=self.bin_value,
                normalization=self.normalization,
                direction=self.direction,
                reduction="none",
            )
            terms["dpm"] = self.beta * self.alpha * mean(divergence, responded)
        if self.alpha < 1:
            data_range = task.max_depth if self.data_range is None else self.data_range
            dissimilarity = ssim_loss(student_depth, teacher_depth, data_range=data_range, reduction="none")
            terms["depth"] = self.beta * (1 - self.alpha) * mean(dissimilarity, responded)
        return terms
