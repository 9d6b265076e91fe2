"""What the methods on depth share: they learn from the teacher's response alone, in the region of their task."""

from __future__ import annotations

from abc import ABC
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from distill.base import DistillationModule, NetworkOutput
from distill.errors import UserError
from distill.tasks import DepthEstimation


class DepthDistillation(DistillationModule, ABC):
    """Base of the methods on depth; the labels are not used unless ``hard_weight`` is above 0.

    Nothing is compared in the rows that the task ignores, nor where the teacher's depth is 0: there is no response, as
    of a stored one beyond the borders of an augmented image. A teacher that runs beside the student has a depth for
    those pixels, too.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        hard_weight: The weight of the hard loss.
        **kwargs: As in :class:`~distill.base.DistillationModule`.
    """

    def __init__(self, *args: Any, hard_weight: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, hard_weight=hard_weight, **kwargs)  # type: ignore[misc]

    @property
    def depth_task(self) -> DepthEstimation:
        """The task, which has the range of depths and the rows to ignore.

        Raises:
            ValueError: It is of another kind.
        """
        if not isinstance(self.task, DepthEstimation):
            raise UserError(
                f"{type(self).__name__} needs task: distill.DepthEstimation, but has {type(self.task).__name__}"
            )
        return self.task

    def depths(self, teacher: NetworkOutput, student: NetworkOutput) -> tuple[Tensor, Tensor]:
        """The depths to compare, ``(N, 1, H, W)`` each: the student's, and the teacher's, 0 where nothing counts."""
        theirs, size = teacher.prediction, student.prediction.shape[2:]
        if theirs.shape[2:] != size:  # batches without a target, to whose size both would be brought
            theirs = F.interpolate(theirs, size, mode="bilinear", align_corners=False)
        theirs = theirs.clone()
        theirs[:, :, : self.depth_task.ignore_top_rows] = 0
        return student.prediction, theirs
