"""Pictures of what both models saw and which classes they said, and of where they diverge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.gallery import CELL, Gallery, images_seen, visible
from distill.metrics import nontarget_jsd

NO_CLASS = -1

RGB = tuple[float, float, float]

Views = dict[str, Tensor]
"""What there is to see of one sample, from left to right, by name: float ``(C, H, W)`` is a modality, integer
``(H, W)`` are classes, ``NO_CLASS`` where there is none, and float ``(H, W)`` a divergence in nats, NaN where there is
none."""


class PredictionGallery(Gallery[Views]):
    """Draws a few validation samples every few epochs: modalities, target, predictions, and their divergence.

    One row a sample: the modalities that the models see, the labels, what teacher and student predict, and the
    Jensen-Shannon divergence of the two on the non-target classes (NCJSD, NTDH eq. 6) at every pixel as a heat map, as
    in NTDH Fig. 12. Everything comes from what the step returned; no model runs again. The picture is
    ``figures/predictions_epoch_0003.png`` of the run's folder, and an image in TensorBoard where that is a logger;
    ``test`` writes ``figures/predictions_test.png``.

    Classes are drawn in the ``palette`` of the data module and called by its ``class_names``, where it has them.
    Predictions that are no maps of logits are left out with a warning.

    Args:
        every_n_epochs: Draws the first validation after each so many epochs, and the last one.
        samples: How many samples, the first ones that the main process sees.

    Raises:
        ValueError: An argument is below 1.
    """

    name = "predictions"

    def obstacle(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> str | None:
        """Anything but maps of logits with a target."""
        prediction, target = outputs["prediction"], batch.get("target")
        if target is None or prediction.ndim != 4 or target.shape != prediction[:, 0].shape or prediction.shape[1] < 2:
            return "the predictions are no maps of logits with a target"
        return None

    def keep(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor], count: int) -> list[Views]:
        """The columns of the picture."""
        return _views(outputs, batch, count)

    def draw(self, samples: list[Views], data: Any) -> Figure:
        """The gallery, in the classes of the data."""
        return gallery_figure(samples, getattr(data, "class_names", None), getattr(data, "palette", None))


def gallery_figure(
    samples: Sequence[Views],
    class_names: Sequence[str] | None = None,
    palette: Sequence[tuple[int, int, int]] | None = None,
) -> Figure:
    """One row a sample, one column a view, and below them the colours of the classes that occur.

    Args:
        samples: At least one, all with the same views of the same size.
        class_names: By index; their numbers by default.
        palette: RGB from 0 to 255 by index; 20 distinct colours in turn by default.
    """
    height, width = samples[0]["target"].shape
    rows, columns = len(samples), len(samples[0])
    figure = Figure(
        figsize=(CELL * columns + 0.6, (CELL * height / width + 0.05) * rows + 0.9),
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
                axes.imshow(visible(view), interpolation="nearest")
            elif not view.is_floating_point():
                axes.imshow(_painted(view, colours), interpolation="nearest")
            else:
                heat = axes.imshow(view.numpy(), cmap="magma", vmin=0, vmax=math.log(2), interpolation="nearest")
    if "NCJSD" in samples[0]:
        figure.colorbar(heat, ax=grid[:, -1], label="nats")
    names = {label: class_names[label] if class_names else str(label) for label in classes}
    patches = [
        Patch(facecolor=colours[label], edgecolor="#888888", linewidth=0.5, label=name) for label, name in names.items()
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 2 * columns), frameon=False)
    return figure


def _views(outputs: Mapping[str, Any], batch: Mapping[str, Tensor], count: int) -> list[Views]:
    """What there is to see of the first samples of a batch, on the CPU."""
    student, teacher, target = outputs["prediction"][:count], outputs.get("teacher_prediction"), batch["target"][:count]
    is_class = (target >= 0) & (target < student.shape[1])
    views = images_seen(outputs, batch)
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
