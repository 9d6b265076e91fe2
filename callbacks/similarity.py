"""How much the depth that a student sees is that of its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.parts.comparison import float64_device
from callbacks.parts.evaluation import EvaluationCallback
from distill.metrics import DepthScores
from distill.metrics.depth import Average, Crop


class TeacherSimilarity(EvaluationCallback):
    """Scores the student's depth against the teacher's, as if that were the ground truth (TIE-KD, Table 2).

    Logged for the stages ``val`` and ``test`` are all of :class:`~distill.metrics.DepthScores`, as
    ``<stage>/similarity_abs_rel``, ``<stage>/similarity_rmse``, ``<stage>/similarity_delta1`` and so on, over all
    pixels where the teacher has a depth in the range, whether or not there is ground truth. All of it comes from what
    the steps return, no model runs again. The numbers are exact however the data are split into batches and over
    processes.

    Nothing is logged where there is no teacher, and, with one warning, where predictions are not depth.

    Args:
        min_depth: The teacher's depth counts above this, and the student's is raised to it; in metres.
        max_depth: The same from above.
        crop: The part of the image that is scored; see :class:`~distill.metrics.DepthScores`.
        average: Whether scores are means over images, as in the paper, or over all pixels.
        ignore_top_rows: So many rows do not count; 110 of 352 in the paper.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        crop: Crop | None = None,
        average: Average = "image",
        ignore_top_rows: int = 0,
    ) -> None:
        self._scores = DepthScores(min_depth, max_depth, crop, average, ignore_top_rows)
        self._warned = False

    def start(self, stage: str) -> None:
        """Starts anew."""
        self._scores.reset()

    def add(self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """Compares the two predictions."""
        if not isinstance(outputs, Mapping) or "teacher_prediction" not in outputs:
            return
        student, teacher = outputs["prediction"], outputs["teacher_prediction"]
        if student.ndim != 4 or student.shape[1] != 1 or student.shape != teacher.shape:
            if not self._warned:
                rank_zero_warn(
                    f"TeacherSimilarity measures nothing: predictions of the shapes {tuple(student.shape)} and "
                    f"{tuple(teacher.shape)} are not depth of the same pixels, (N, 1, H, W)"
                )
            self._warned = True
            return
        device = float64_device(pl_module.device)
        self._scores.to(device)
        self._scores.update(student.to(device), teacher.to(device))

    def close(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores."""
        # a process without a batch must take part in the sums of the others
        if not trainer.strategy.reduce_boolean_decision(self._scores.update_called, all=False):
            return
        self._scores.to(float64_device(pl_module.device))
        scores = {f"{stage}/similarity_{name}": value.float() for name, value in self._scores.compute().items()}
        # equal on all processes already: sync_dist only tells Lightning not to warn
        pl_module.log_dict(scores, on_step=False, on_epoch=True, sync_dist=True)
