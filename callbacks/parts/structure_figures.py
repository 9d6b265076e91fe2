"""Pictures of the structure of features: the similarity of channels, and the samples in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch import Tensor

NO_CLASS = -1
MAX_LEGEND_CLASSES = 20  # with more classes there is no legend


def similarity_figure(rows: Sequence[Mapping[str, Tensor]]) -> Figure:
    """The similarity of channels: a row for each pair of layers, a column for each network (DS, Fig. 2 a and b).

    Args:
        rows: Similarities from 0 to 1, ``(C, C)``, by the titles of their pictures.
    """
    figure, grid = _grid(rows, height=4.4)
    for axes, (title, similarity) in _cells(grid, rows):
        heat = axes.imshow(similarity.cpu().numpy(), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize="medium")
        axes.set(xlabel="channel", ylabel="channel")
    figure.colorbar(heat, ax=grid[:, -1], label="|cosine| of two channels over the samples", shrink=0.85)
    return figure


def embedding_figure(
    rows: Sequence[Mapping[str, Tensor]], labels: Tensor, class_names: Sequence[str] | None = None
) -> Figure:
    """Samples in the plane by t-SNE: a row for each pair of layers, a column for each network (DS, Fig. 2 c and d).

    Args:
        rows: Features ``(N, C)``, N at least 3, by the titles of their pictures.
        labels: Class indices, ``(N,)``, ``NO_CLASS`` where there is none.
        class_names: By index; ``None`` writes the indices.
    """
    figure, grid = _grid(rows, height=4.2)
    classes = labels.cpu().numpy()
    for axes, (title, features) in _cells(grid, rows):
        points = embedding(features.cpu().numpy())
        axes.scatter(points[:, 0], points[:, 1], s=9, c=_colours(classes), linewidths=0)
        axes.set_title(title, fontsize="medium")
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.set_adjustable("datalim")
    present = [int(label) for label in np.unique(classes) if label != NO_CLASS]
    if 0 < len(present) <= MAX_LEGEND_CLASSES:
        names = [class_names[label] if class_names else str(label) for label in present]
        handles = [
            Line2D([], [], linestyle="", marker="o", color=colour, label=name)
            for name, colour in zip(names, _colours(np.array(present)), strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(present), 10), frameon=False)
    return figure


def embedding(features: NDArray[Any]) -> NDArray[Any]:
    """Samples in the plane by t-SNE, ``(N, 2)``; the same features give the same picture.

    Args:
        features: ``(N, C)``, N at least 3.
    """
    # by default t-SNE starts from two principal components, which need two dims in which the samples differ
    varied = (features.std(axis=0) > 0).sum() >= 2
    tsne = TSNE(
        perplexity=min(30.0, (len(features) - 1) / 3), init="pca" if varied else "random", random_state=0, n_jobs=1
    )
    points: NDArray[Any] = tsne.fit_transform(features)
    return points


def _grid(rows: Sequence[Mapping[str, Tensor]], height: float) -> tuple[Figure, NDArray[Any]]:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(9.6, height * len(rows)), layout=layout)
    return figure, figure.subplots(len(rows), len(rows[0]), squeeze=False)


def _cells(grid: NDArray[Any], rows: Sequence[Mapping[str, Tensor]]) -> list[tuple[Axes, tuple[str, Tensor]]]:
    return [cell for axes, row in zip(grid, rows, strict=True) for cell in zip(axes, row.items(), strict=True)]


def _colours(labels: NDArray[np.int64]) -> NDArray[Any]:
    """The RGBA colour of each label, ``(N, 4)``; there are 20 colours, which repeat."""
    colours = np.array([matplotlib.colormaps["tab10" if labels.max() < 10 else "tab20"](label) for label in range(20)])
    return np.where(labels[:, None] == NO_CLASS, matplotlib.colors.to_rgba("#999999"), colours[labels % 20])
