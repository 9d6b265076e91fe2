"""Res-KD: the student's depths, or other values, follow the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from distill.base import Batch, NetworkOutput
from distill.checks import check_positive, check_weights
from distill.distributed import mean
from distill.errors import UserError
from distill.losses import silog_loss, ssim_loss
from distill.methods.parts.depth import DepthDistillation
from distill.tasks import Regression
from distill.tasks.parts.resizing import resized

DepthLoss = Literal["ssim", "mse", "si"]


class ResKD(DepthDistillation):
    """Response-based distillation of depth (compared with by Choi et al., Image and Vision Computing 2024, Sec. 4.2).

    Needs: depth or regression.

    ``weight`` times the sum of one or more losses between the depths of student and teacher. No ground truth is used.

    - ``"ssim"``: 1 - SSIM (:func:`~distill.losses.ssim_loss`);
    - ``"mse"``: the mean squared error in square metres;
    - ``"si"``: the scale-invariant error (:func:`~distill.losses.silog_loss`).

    With the task :class:`~distill.Regression` the student's values follow the teacher's: the term ``value`` is
    ``weight`` times the task's own loss between them, a mean over all values, also those without a measured number.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        losses: Which, for depth; SSIM and SI by default. The paper has SSIM, MSE and SI alone, SSIM with SI, and SSIM
            with MSE.
        weight: The weight of their sum.
        data_range: The range of depths that SSIM's constants stand for; the task's highest depth by default.
        **kwargs: As in :class:`~distill.methods.parts.depth.DepthDistillation`.

    Raises:
        ValueError: There is no loss, or one is unknown; when called, the task has neither depth nor other values.
    """

    task_names = "distill.DepthEstimation or distill.Regression"

    def __init__(
        self,
        *args: Any,
        losses: Sequence[DepthLoss] | None = None,
        weight: float = 1.0,
        data_range: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_weights(self.hard_weight, weight=weight)
        check_positive(data_range=data_range)
        known = get_args(DepthLoss)
        if losses is not None and (not losses or any(name not in known for name in losses)):
            raise UserError(f"losses must be one or more of {', '.join(known)}, got {list(losses)}")
        self.losses = None if losses is None else tuple(dict.fromkeys(losses))
        self.weight = weight
        self.data_range = data_range

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The losses apart; means over the pixels, or for SI the images, where the teacher has a response."""
        if isinstance(self.task, Regression):
            return {"value": self.weight * self._value_loss(self.task, teacher.prediction, student.prediction)}
        depths = self.depths(teacher, student)
        return {name: self.weight * self._loss(name, *depths) for name in self.losses or ("ssim", "si")}

    def _value_loss(self, task: Regression, teacher: Tensor, student: Tensor) -> Tensor:
        if self.losses is not None:
            raise UserError("losses are for depth: with Regression, ResKD takes the loss of the task")
        if teacher.shape[:2] != student.shape[:2] or teacher.ndim != student.ndim:
            raise UserError(
                f"ResKD compares values of the same number, but the teacher predicts {tuple(teacher.shape)} and the "
                f"student {tuple(student.shape)}"
            )
        # a target would have brought both to its size
        values = task.value_loss(student, resized(teacher, student.shape[2:]))
        return mean(values, torch.ones_like(values))

    def _loss(self, name: DepthLoss, student: Tensor, teacher: Tensor) -> Tensor:
        responded = ~(teacher <= 0)  # NaN counts, so that it is not hidden
        if name == "si":
            return mean(silog_loss(student, teacher, reduction="none"), responded.flatten(1).any(1))
        if name == "mse":
            return mean(torch.where(responded, student - teacher, 0).square(), responded)
        data_range = self.depth_task.max_depth if self.data_range is None else self.data_range
        return mean(ssim_loss(student, teacher, data_range=data_range, reduction="none"), responded[:, 0])
