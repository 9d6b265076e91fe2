"""How close a student's depth is to its teacher's."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from callbacks.parts.comparison import float64_device
from callbacks.parts.evaluation import EvaluationCallback, Split, log_reduced
from callbacks.parts.step import Step
from distill.metrics import DepthScores
from distill.metrics.depth import Average, Crop


class TeacherSimilarity(EvaluationCallback):
    """Scores the student's depth with the teacher's depth as the ground truth (TIE-KD, Table 2).

    For the stages ``val`` and ``test``, it logs all scores of :class:`~distill.metrics.DepthScores`, as
    ``<stage>/similarity_abs_rel``, ``<stage>/similarity_rmse``, ``<stage>/similarity_delta1`` and so on, over all
    pixels where the teacher's depth lies in the range, with or without ground truth. All data come from what the steps
    return; no model runs again. Each further loader has values of its own, ``val/similarity_rmse/<name>``. The numbers
    are exact, whatever the batches and the number of processes are.

    Nothing is logged if there is no teacher. If the predictions are no depth, one warning says so.

    Args:
        min_depth: In metres. Smaller depths of the teacher are ignored, and those of the student are raised to it.
        max_depth: In metres. Larger depths of the teacher are ignored, and those of the student are lowered to it.
        crop: The part of the image that is scored; see :class:`~distill.metrics.DepthScores`.
        average: Whether scores are means over images, as in the paper, or over all pixels.
        ignore_top_rows: The number of upper rows that are ignored; 110 of 352 in the paper.

    Raises:
        ValueError: An argument is out of its range.
    """

    logged = ("similarity_*",)

    def __init__(
        self,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        crop: Crop | None = None,
        average: Average = "image",
        ignore_top_rows: int = 0,
    ) -> None:
        self._settings = (min_depth, max_depth, crop, average, ignore_top_rows)
        DepthScores(*self._settings)  # raises an error if an argument is out of its range
        self._scores: dict[Split, DepthScores] = {}

    def start(self, split: Split) -> None:
        """Forgets the batches of an earlier epoch."""
        self._scores[split] = DepthScores(*self._settings)

    def add(self, split: Split, trainer: Trainer, pl_module: LightningModule, step: Step) -> None:
        """Compares the two predictions."""
        if step.teacher_prediction is None:
            return
        step = step.with_teacher()
        student, teacher = step.prediction, step.teacher_prediction
        assert teacher is not None
        if student.ndim != 4 or student.shape[1] != 1 or student.shape != teacher.shape:
            self._warn_once(
                f"{self.idle}: predictions of the shapes {tuple(student.shape)} and {tuple(teacher.shape)} are "
                "not depth of the same pixels, (N, 1, H, W)"
            )
            return
        if len(student):
            device = float64_device(pl_module.device)
            self._scores[split].to(device).update(student.to(device), teacher.to(device))

    def close(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores."""
        scores = self._scores[split]
        # a process without a batch must take part in the sums of the others
        if not trainer.strategy.reduce_boolean_decision(scores.update_called, all=False):
            return
        scores.to(float64_device(pl_module.device))
        values = {split.key(f"similarity_{name}"): value.float() for name, value in scores.compute().items()}
        log_reduced(pl_module, values)
