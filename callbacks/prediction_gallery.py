"""Pictures of the inputs of both models, the classes that they predict, and the divergence of their predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.parts.figures import as_picture
from callbacks.parts.gallery import PICTURE_WIDTH, Gallery, input_images
from distill.checks import check_share
from distill.metrics import nontarget_jsd
from distill.weighting import left_out

NO_CLASS = -1
MARK_COLOUR = (1.0, 0.4, 0.0)  # orange, RGB from 0 to 1

RGB = tuple[float, float, float]

Views = dict[str, Tensor]
"""The pictures of one sample by name, from left to right: a modality is float ``(C, H, W)``; classes are integer
``(H, W)``, ``NO_CLASS`` where there is none; a divergence is float ``(H, W)``, in nats, NaN where there is none."""


class PredictionGallery(Gallery[Views]):
    """Draws a few validation samples every few epochs: modalities, target, predictions, and their divergence.

    Each sample has a row of pictures: the modalities that the models see, the labels, the predictions of teacher and
    student, and a heat map of the Jensen-Shannon divergence of the two on the non-target classes (NCJSD, NTDH eq. 6)
    at every pixel. All data come from what the step returned; no model runs again. The picture is
    ``figures/predictions_epoch_0003.png`` in the run's folder, and an image in TensorBoard if that is a logger;
    ``test`` writes ``figures/predictions_test.png``.

    Classes have the colours and names of the data module's ``palette`` and ``class_names``, if it has these. If the
    predictions are no maps of logits, a warning says so and nothing is drawn.

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

    def obstacle(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> str | None:
        """Predictions that are no maps of logits, or have no target of the same size."""
        prediction, target = outputs["prediction"], batch.get("target")
        if target is None or prediction.ndim != 4 or target.shape != prediction[:, 0].shape or prediction.shape[1] < 2:
            return "the predictions are no maps of logits with a target"
        return None

    def keep(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor], count: int) -> list[Views]:
        """The pictures of each sample."""
        samples = _views(outputs, batch, count)
        for views in samples:
            if self.left_out is not None and "NCJSD" in views:
                views["left out"] = _marked(views, left_out(views["NCJSD"].nan_to_num(-math.inf), self.left_out))
        return samples

    def draw(self, samples: list[Views], data: Any) -> Figure:
        """The gallery, with the names and colours of the data's classes."""
        return gallery_figure(samples, getattr(data, "class_names", None), getattr(data, "palette", None))


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
        figsize=(PICTURE_WIDTH * columns + 0.6, (PICTURE_WIDTH * height / width + 0.05) * rows + 0.9),
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
    names = {label: class_names[label] if class_names else str(label) for label in classes}
    patches = [
        Patch(facecolor=colours[label], edgecolor="#888888", linewidth=0.5, label=name) for label, name in names.items()
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 2 * columns), frameon=False)
    return figure


def _views(outputs: Mapping[str, Any], batch: Mapping[str, Tensor], count: int) -> list[Views]:
    """The pictures of the first samples of a batch, on the CPU."""
    student, teacher, target = outputs["prediction"][:count], outputs.get("teacher_prediction"), batch["target"][:count]
    is_class = (target >= 0) & (target < student.shape[1])
    views = input_images(outputs, batch)
    views["target"] = target.where(is_class, NO_CLASS)
    if teacher is None:
        views["prediction"] = student.argmax(1)
    else:
        teacher = teacher[:count]
        divergence = nontarget_jsd(student, teacher, target.where(is_class, 0))
        views["teacher"] = teacher.argmax(1)
        views["student"] = student.argmax(1)
        views["NCJSD"] = divergence.where(is_class, math.nan)
    return [{name: value[n].cpu() for name, value in views.items()} for n in range(len(target))]


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
    if palette is None:
        return matplotlib.colormaps["tab20"](label % 20)[:3]
    red, green, blue = palette[label]
    return red / 255, green / 255, blue / 255


def _painted(classes: Tensor, colours: Mapping[int, RGB]) -> NDArray[Any]:
    picture = np.zeros((*classes.shape, 3))
    for label, colour in colours.items():
        picture[classes.numpy() == label] = colour
    return picture
