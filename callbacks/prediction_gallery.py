"""Pictures of the inputs of both models, the classes that they predict, and the divergence of their predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.parts.class_figures import ClassViews, classification_figure
from callbacks.parts.classes import class_names, name_of
from callbacks.parts.figures import as_picture
from callbacks.parts.gallery import PICTURE_WIDTH, Gallery, middle_slice
from callbacks.parts.step import Step
from distill.checks import check_share
from distill.metrics import nontarget_jsd
from distill.weighting import left_out

NO_CLASS = -1
TALLEST = 1.5  # height of a row by the width of a picture; taller pictures become narrower
MARK_COLOUR = (1.0, 0.4, 0.0)  # orange, RGB from 0 to 1

RGB = tuple[float, float, float]

Views = dict[str, Tensor]
"""The pictures of one sample by name, from left to right: a modality is float ``(C, H, W)``; classes are integer
``(H, W)``, ``NO_CLASS`` where there is none; a divergence is float ``(H, W)``, in nats, NaN where there is none."""


class PredictionGallery(Gallery[Views | ClassViews]):
    """Draws a few validation samples every few epochs: modalities, target, and the predictions of both models.

    Each sample has a row of pictures. It starts with the modalities that the models see: images and spectrograms,
    curves of signals ``(C, T)``, bars or a curve of a vector, the middle slice of a volume and the middle frame of a
    video. Then follow, for a class of each sample, the most probable classes with the probabilities that teacher and
    student give them, and whether each of the two is right. For a class of each pixel or voxel, these are the labels,
    the predictions of teacher and student, and a heat map of the Jensen-Shannon divergence of the two on the non-target
    classes (NCJSD, NTDH eq. 6). All data come from what the step returned, of any LightningModule
    (``docs/callbacks.md``); no model runs again. The picture is ``figures/predictions_epoch_0003.png`` in the run's
    folder, and an image in TensorBoard if that is a logger; ``test`` writes ``figures/predictions_test.png``.

    Classes have the names of the task's or the data module's ``class_names``, and the colours of the data module's
    ``palette``. Images have their colours if the data module's ``normalization`` says how they were normalised. Other
    predictions are not drawn, and a warning says so.

    Args:
        every_n_epochs: The first validation after each ``every_n_epochs`` epochs is drawn, and the last validation.
        samples: The number of samples; they are the first ones of the main process.
        left_out: Adds a picture that marks this share of the pixels, those with the highest NCJSD.
            :class:`~distill.weighting.NontargetSampleMask` would leave them out (NTDH Fig. 12). ``None`` adds none.

    Raises:
        ValueError: A number is below 1, or the share lies outside [0, 1].
    """

    name = "predictions"

    def __init__(self, every_n_epochs: int = 5, samples: int = 4, left_out: float | None = None) -> None:
        super().__init__(every_n_epochs, samples)
        check_share(left_out=left_out)
        self.left_out = left_out

    def obstacle(self, step: Step) -> str | None:
        """Predictions that are no logits of two or more classes, or have no target of the same size."""
        prediction, target = step.prediction, step.target
        if (
            target is None
            or target.is_floating_point()
            or prediction.ndim not in (2, 4, 5)
            or prediction.shape[1] < 2
            or target.shape != prediction[:, 0].shape
        ):
            return "the predictions are no logits of the classes of samples, pixels or voxels with a target"
        return None

    def keep(self, step: Step, count: int) -> list[Views | ClassViews]:
        """The pictures of each sample."""
        if step.teacher_prediction is not None and step.teacher_prediction.shape != step.prediction.shape:
            self._warn_once(
                f"draws the student alone: its predictions have the shape {tuple(step.prediction.shape)} and the "
                f"teacher's {tuple(step.teacher_prediction.shape)}"
            )
            step = replace(step, teacher_prediction=None)
        if step.prediction.ndim == 2:
            return list(_class_views(step, count))
        samples = _views(step, count)
        for views in samples:
            if self.left_out is not None and "NCJSD" in views:
                views["left out"] = _marked(views, left_out(views["NCJSD"].nan_to_num(-math.inf), self.left_out))
        return list(samples)

    def draw(self, samples: list[Views | ClassViews], trainer: Trainer) -> Figure:
        """The gallery, with the names and colours of the classes."""
        names = class_names(trainer)
        of_classes = [views for views in samples if isinstance(views, ClassViews)]
        if of_classes:
            return classification_figure(of_classes, names)
        palette = getattr(trainer.datamodule, "palette", None) or None  # type: ignore[attr-defined]
        return gallery_figure([views for views in samples if isinstance(views, dict)], names, palette)


def gallery_figure(
    samples: Sequence[Views],
    class_names: Sequence[str] | None = None,
    palette: Sequence[tuple[int, int, int]] | None = None,
) -> Figure:
    """A row of pictures for each sample, and below them the colours of the classes that occur.

    Args:
        samples: At least one, all with the same views of the same size.
        class_names: By index; ``None`` writes the indices.
        palette: RGB from 0 to 255 by index; ``None`` repeats 20 colours.
    """
    height, width = samples[0]["target"].shape
    rows, columns = len(samples), len(samples[0])
    figure = Figure(
        figsize=(PICTURE_WIDTH * columns + 0.6, (PICTURE_WIDTH * min(height / width, TALLEST) + 0.05) * rows + 0.9),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01),
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    classes = sorted({int(label) for views in samples for view in views.values() for label in _classes_in(view)})
    colours = {label: _colour(label, palette) for label in classes}
    for axes, name in zip(grid[0], samples[0], strict=True):
        axes.set_title(name, fontsize="medium")
    for row, views in zip(grid, samples, strict=True):
        for axes, view in zip(row, views.values(), strict=True):
            axes.set_axis_off()
            if view.ndim == 3:
                axes.imshow(as_picture(view), interpolation="nearest")
            elif not view.is_floating_point():
                axes.imshow(_painted(view, colours), interpolation="nearest")
            else:
                heat = axes.imshow(view.numpy(), cmap="magma", vmin=0, vmax=math.log(2), interpolation="nearest")
    if "NCJSD" in samples[0]:
        figure.colorbar(heat, ax=grid[:, list(samples[0]).index("NCJSD")], label="nats")
    names = {label: name_of(label, class_names or ()) for label in classes}
    patches = [
        Patch(facecolor=colours[label], edgecolor="#888888", linewidth=0.5, label=name) for label, name in names.items()
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 2 * columns), frameon=False)
    return figure


def _views(step: Step, count: int) -> list[Views]:
    """The pictures of the first samples of a batch, on the CPU."""
    assert step.target is not None
    student, target = middle_slice(step.prediction[:count]), middle_slice(step.target[:count, None])[:, 0]
    is_class = (target >= 0) & (target < student.shape[1]) & (target != step.ignore_index)
    views = {name: middle_slice(x[:count]) for name, x in step.modalities.items() if x.ndim == step.prediction.ndim}
    views["target"] = target.where(is_class, NO_CLASS)
    if step.teacher_prediction is None:
        views["prediction"] = student.argmax(1)
    else:
        teacher = middle_slice(step.teacher_prediction[:count])
        divergence = nontarget_jsd(student, teacher, target.where(is_class, 0))
        views["teacher"] = teacher.argmax(1)
        views["student"] = student.argmax(1)
        views["NCJSD"] = divergence.where(is_class, math.nan)
    return [{name: value[n].cpu() for name, value in views.items()} for n in range(len(target))]


def _class_views(step: Step, count: int) -> list[ClassViews]:
    """What both models see and say of the first samples of a batch, on the CPU."""
    assert step.target is not None
    modalities = {name: middle_slice(values[:count]).float().cpu() for name, values in step.modalities.items()}
    student = step.prediction[:count].float().softmax(1).cpu()
    teacher = step.teacher_prediction
    of_teacher = None if teacher is None else teacher[:count].float().softmax(1).cpu()
    return [
        ClassViews(
            {name: values[n] for name, values in modalities.items()},
            target if 0 <= target < student.shape[1] and target != step.ignore_index else None,
            student[n],
            None if of_teacher is None else of_teacher[n],
        )
        for n, target in enumerate(step.target[:count].tolist())
    ]


def _marked(views: Views, where: Tensor) -> Tensor:
    """The last image of a sample, or grey if it has none, with the pixels of ``where`` in orange."""
    images = [view for view in views.values() if view.ndim == 3]
    grey = as_picture(images[-1]).mean(-1) if images else np.full(where.shape, 0.5)
    return torch.tensor(np.where(where.numpy()[..., None], MARK_COLOUR, grey[..., None])).movedim(-1, 0)


def _classes_in(view: Tensor) -> list[int]:
    if view.is_floating_point():
        return []
    return [label for label in view.unique().tolist() if label != NO_CLASS]


def _colour(label: int, palette: Sequence[tuple[int, int, int]] | None) -> RGB:
    if palette is None or label >= len(palette):
        return matplotlib.colormaps["tab20"](label % 20)[:3]
    red, green, blue = palette[label]
    return red / 255, green / 255, blue / 255


def _painted(classes: Tensor, colours: Mapping[int, RGB]) -> NDArray[Any]:
    picture = np.zeros((*classes.shape, 3))
    for label, colour in colours.items():
        picture[classes.numpy() == label] = colour
    return picture
