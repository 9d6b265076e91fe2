"""Samples with a class each in pictures: what the models see, and how probable they find the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from callbacks.parts.classes import name_of
from callbacks.parts.figures import as_picture, shortened

MODALITY_WIDTH = 2.4  # inches
BARS_WIDTH = 4.6  # inches
ROW_HEIGHT = 2.1  # inches
TOP_CLASSES = 4  # the most probable classes that are drawn; the true class is added
MAX_BARS = 48  # longer vectors are curves
CURVE_COLOURS = ("#6a3d9a", "#8c6d31", "#7f7f7f", "#c277b0", "#4d4d4d", "#b5a642")
"""Colours of the channels of a signal, none of them one of a model or of a right or wrong prediction."""
MAX_CURVES = len(CURVE_COLOURS)
MODEL_COLOURS = {"teacher": "#0072b2", "student": "#e69f00"}
RIGHT, WRONG, NEITHER = "#1a7f37", "#c0143c", "#444444"


@dataclass(frozen=True)
class ClassViews:
    """What the models see of one sample and how they classify it, on the CPU.

    Args:
        modalities: The inputs by name: images ``(C, H, W)``, signals ``(C, T)`` or vectors ``(D,)``.
        target: The true class; ``None`` if it is unknown.
        student: The student's probabilities, ``(C,)``.
        teacher: The teacher's; ``None`` without a teacher.
    """

    modalities: Mapping[str, Tensor]
    target: int | None
    student: Tensor
    teacher: Tensor | None = None

    @property
    def models(self) -> dict[str, Tensor]:
        """The probabilities of each model."""
        return {"student": self.student} if self.teacher is None else {"teacher": self.teacher, "student": self.student}


def classification_figure(samples: Sequence[ClassViews], class_names: Sequence[str] = ()) -> Figure:
    """A row for each sample: its modalities, and the most probable classes with a bar for each model.

    Above the bars stands what each model predicts, in green if it is right and in red if it is wrong. The name of the
    true class is bold and green.

    Args:
        samples: At least one, all with the same modalities.
        class_names: By index; empty writes the indices.
    """
    names = [name for name, values in samples[0].modalities.items() if values.ndim in (1, 2, 3)]
    figure = Figure(
        figsize=(MODALITY_WIDTH * len(names) + BARS_WIDTH, ROW_HEIGHT * len(samples) + 0.5),
        layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08),
    )
    widths = [MODALITY_WIDTH] * len(names) + [BARS_WIDTH]
    grid = figure.subplots(len(samples), len(widths), squeeze=False, width_ratios=widths)
    for row, views in zip(grid, samples, strict=True):
        for axes, name in zip(row, names, strict=False):
            _draw_modality(axes, views.modalities[name])
        _draw_probabilities(row[-1], views, class_names)
    for axes, name in zip(grid[0], names, strict=False):
        axes.set_title(name, fontsize="medium")
    handles = [Patch(color=MODEL_COLOURS[model], label=model) for model in samples[0].models]
    handles += [Patch(color=RIGHT, label="true class"), Patch(color=WRONG, label="wrong prediction")]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False)
    return figure


def _draw_modality(axes: Axes, values: Tensor) -> None:
    if values.ndim == 3:
        height, width = values.shape[1:]
        axes.imshow(as_picture(values), interpolation="nearest", aspect="auto" if width > 2 * height else "equal")
        axes.set(xticks=[], yticks=[])
    elif values.ndim == 2:
        axes.set_prop_cycle(color=CURVE_COLOURS)
        axes.plot(values[:MAX_CURVES].T.numpy(), linewidth=0.8)
    elif len(values) <= MAX_BARS:
        axes.bar(np.arange(len(values)), values.numpy(), color="#777777")
        axes.axhline(0, color="black", linewidth=0.6)
    else:
        axes.plot(values.numpy(), color="#555555", linewidth=0.8)
    axes.tick_params(labelsize="x-small")


def _draw_probabilities(axes: Axes, views: ClassViews, class_names: Sequence[str]) -> None:
    models = views.models
    highest = np.max([probability.numpy() for probability in models.values()], axis=0)
    shown = np.argsort(-highest, kind="stable")[:TOP_CLASSES].tolist()
    if views.target is not None and views.target not in shown:
        shown.append(views.target)
    names = [shortened(name_of(label, class_names)) for label in shown]
    height = 0.8 / len(models)
    for number, (model, probability) in enumerate(models.items()):
        places = np.arange(len(shown)) + (number - (len(models) - 1) / 2) * height
        axes.barh(places, probability[shown].numpy(), height, color=MODEL_COLOURS[model])
        predicted = int(probability.argmax())
        colour = NEITHER if views.target is None else RIGHT if predicted == views.target else WRONG
        title = f"{model}: {shortened(name_of(predicted, class_names))} ({probability[predicted]:.0%})"
        axes.set_title(title, loc="left" if number == 0 else "right", fontsize="small", color=colour)
    axes.set(xlim=(0, 1), yticks=np.arange(len(shown)), yticklabels=names)
    axes.set_ylim(max(len(shown), TOP_CLASSES) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(labelsize="small")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if views.target is not None:
        axes.get_yticklabels()[shown.index(views.target)].set(color=RIGHT, fontweight="bold")
