"""Pictures of the depth that both models predict for a few samples, and of their probabilities over depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from callbacks.parts.depth_figures import DepthViews, depth_figure
from callbacks.parts.evaluation import Split
from callbacks.parts.figures import as_picture
from callbacks.parts.gallery import Gallery
from callbacks.parts.step import Step
from distill.atomic import atomic_write
from distill.checks import check_positive
from distill.errors import UserError
from distill.losses.dpm import BinValue, Normalization, depth_probability_map


class DepthGallery(Gallery[DepthViews]):
    """Draws a few validation samples every few epochs: modalities, target, depths, error, and the bins of a pixel row.

    Each sample has a row of pictures: the modalities that the models see, the ground truth, the depth of teacher and
    student, and the student's absolute relative error against the ground truth. If no sample has ground truth, the
    error is against the teacher. Below, for one pixel row of the first sample, are the two distributions over the bins
    that TIE-KD compares (Sec. 3.2): the teacher's depth probability map and the student's softmax. A student without
    bins has no such pictures. All data come from what the step returned; no model runs again. The picture is
    ``figures/depth_epoch_0003.png`` in the run's folder, and an image in TensorBoard if that is a logger.

    ``test`` writes ``figures/depth_test.png``, and ``figures/depth_test.npz`` for a study's picture of several
    students: ``image`` ``(N, H, W, 3)`` as uint8, and ``target``, ``student`` and, if there is a teacher, ``teacher``,
    ``(N, H, W)`` each, as float32 in metres.

    As in the scores, ground truth outside ``min_depth`` and ``max_depth`` is ignored. If the predictions are no maps of
    depth, a warning says so and nothing is drawn.

    Args:
        every_n_epochs: The first validation after each ``every_n_epochs`` epochs is drawn, and the last validation.
        samples: The number of samples; they are the first ones of the main process.
        min_depth: The nearest depth that counts and the lower end of the bins, in metres.
        max_depth: The farthest depth that counts and the upper end of the bins, in metres.
        sigma: The standard deviation of the teacher's map, in metres.
        bin_value: See :func:`~distill.losses.depth_probability_map`.
        normalization: See :func:`~distill.losses.depth_probability_map`.
        row: The pixel row, as a fraction of the height from the top; ``None`` draws no bins. To see another row of a
            trained student, run ``test`` with another value.
        layer: The student's layer that returns logits over the bins, one of its ``student_layers``.

    Raises:
        ValueError: An argument is out of its range.
    """

    name = "depth"

    def __init__(
        self,
        every_n_epochs: int = 5,
        samples: int = 4,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        sigma: float = 0.8,
        bin_value: BinValue = "density",
        normalization: Normalization = "softmax",
        row: float | None = 0.6,
        layer: str = "bins",
    ) -> None:
        super().__init__(every_n_epochs, samples)
        check_positive(min_depth=min_depth, max_depth=max_depth, sigma=sigma)
        if not min_depth < max_depth:
            raise UserError(f"min_depth must be below max_depth, got {min_depth} and {max_depth}")
        if row is not None and not 0 <= row < 1:
            raise UserError(f"row must be at least 0 and below 1, or None, got {row}")
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.sigma = sigma
        self.bin_value = bin_value
        self.normalization = normalization
        self.row = row
        self.layer = layer

    def close(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the samples, and writes those of the test for a comparison with other runs."""
        samples = self._kept.get(split)
        if split.stage == "test" and samples and self._folder is not None:
            with atomic_write(self._folder / "figures" / f"depth_test{split.file_suffix}.npz") as draft:
                np.savez_compressed(draft, **_arrays(samples))  # type: ignore[arg-type]
        super().close(split, trainer, pl_module)

    def obstacle(self, step: Step) -> str | None:
        """Predictions that are no maps of depth, or have no target of the same size."""
        prediction, target = step.prediction, step.target
        if (
            target is None
            or not target.is_floating_point()
            or target.shape != prediction.shape
            or target.shape[1:-2] != (1,)
        ):
            return "the predictions are no maps of depth with a target"
        return None

    def keep(self, step: Step, count: int) -> list[DepthViews]:
        """The pictures of each sample, and the probabilities over the bins along one pixel row."""
        student_bins, teacher_bins = self._bins(step, count)
        target, teacher = step.target, step.teacher_prediction
        assert target is not None
        modalities = {name: values for name, values in step.modalities.items() if values.ndim == 4}
        image = step.image if step.image is not None else next(iter(modalities.values()), target)
        maps = {
            "image": image,
            "target": target.where((target > self.min_depth) & (target < self.max_depth), 0)[:, 0],
            "student": step.prediction[:, 0],
            "teacher": None if teacher is None else teacher[:, 0],
            "student_bins": student_bins,
            "teacher_bins": teacher_bins,
        }
        views = {name: values[:count].float().cpu() for name, values in maps.items() if values is not None}
        pictures = {name: values[:count].float().cpu() for name, values in modalities.items()}
        pictures.pop("teacher_prediction", None)  # the input of a stored teacher is its prediction
        return [
            DepthViews(
                modalities={name: values[n] for name, values in pictures.items()},
                **{name: values[n] for name, values in views.items()},
            )
            for n in range(len(views["target"]))
        ]

    def draw(self, samples: list[DepthViews], trainer: Trainer | None) -> Figure:
        """The gallery."""
        return depth_figure(samples, (self.min_depth, self.max_depth), self.row)

    def _bins(self, step: Step, count: int) -> tuple[Tensor | None, Tensor | None]:
        """The probabilities of student and teacher along the row, ``(count, bins, columns)``, or ``None``."""
        logits, teacher = step.features.get(self.layer), step.teacher_prediction
        if self.row is None or logits is None or teacher is None:
            return None, None
        # the teacher has the size of the target, the logits that of their layer
        student_row, teacher_row = (int(self.row * maps.shape[2]) for maps in (logits, teacher))
        teacher_bins = depth_probability_map(
            teacher[:count, :, teacher_row : teacher_row + 1].float(),
            bins=logits.shape[1],
            min_depth=self.min_depth,
            max_depth=self.max_depth,
            sigma=self.sigma,
            bin_value=self.bin_value,
            normalization=self.normalization,
        )
        return logits[:count, :, student_row].float().softmax(1), teacher_bins[:, :, 0]


def _arrays(samples: list[DepthViews]) -> dict[str, NDArray[Any]]:
    images = [np.round(255 * as_picture(views.image)).astype(np.uint8) for views in samples]
    arrays = {"image": np.stack(images)}
    for name in ("target", "teacher", "student"):
        maps = [getattr(views, name) for views in samples]
        if maps[0] is not None:
            arrays[name] = torch.stack(maps).numpy()
    return arrays
