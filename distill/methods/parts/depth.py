"""The base of the methods on depth, which learn from the teacher's response in the region of their task."""

from __future__ import annotations

from abc import ABC
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from distill.base import DistillationModule, NetworkOutput
from distill.errors import UserError
from distill.tasks import DepthEstimation


class DepthDistillation(DistillationModule, ABC):
    """Base of the methods on depth; labels are used only if ``hard_weight`` is above 0.

    Two kinds of pixels are not compared: rows that the task ignores, and pixels whose teacher depth is 0. There the
    teacher has no response, as in a stored response beyond the borders of an augmented image. A teacher that runs
    beside the student has a depth for those pixels as well.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        hard_weight: The weight of the hard loss.
        **kwargs: As in :class:`~distill.base.DistillationModule`.
    """

    def __init__(self, *args: Any, hard_weight: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, hard_weight=hard_weight, **kwargs)  # type: ignore[misc]

    task_names = "distill.DepthEstimation"
    """The tasks that the method takes, for its error."""

    @property
    def depth_task(self) -> DepthEstimation:
        """The task, with the range of depths and the rows to ignore.

        Raises:
            ValueError: The task is not :class:`~distill.DepthEstimation`.
        """
        if not isinstance(self.task, DepthEstimation):
            raise UserError(f"{type(self).__name__} needs task: {self.task_names}, but has {type(self.task).__name__}")
        return self.task

    def depths(self, teacher: NetworkOutput, student: NetworkOutput) -> tuple[Tensor, Tensor]:
        """The depths to compare, ``(N, 1, H, W)`` each: the student's and the teacher's, which is 0 in ignored rows."""
        depth, size = teacher.prediction, student.prediction.shape[2:]
        if depth.shape[2:] != size:  # a target would have brought both to its size
            depth = F.interpolate(depth, size, mode="bilinear", align_corners=False)
        depth = depth.clone()
        depth[:, :, : self.depth_task.ignore_top_rows] = 0
        return student.prediction, depth
