"""Pictures of how features are made: which channels go together, and where the samples lie."""

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
MOST_NAMES = 20  # in a legend; more classes are told by their colours alone


def similarity_figure(rows: Sequence[Mapping[str, Tensor]]) -> Figure:
    """One row a pair of layers, one column a network: how similar its channels are (DS, Fig. 2 a and b).

    Args:
        rows: Similarities from 0 to 1, ``(C, C)``, by what stands above them.
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
    """One row a pair of layers, one column a network: its samples in the plane by t-SNE (DS, Fig. 2 c and d).

    Args:
        rows: Features ``(N, C)``, N at least 3, by what stands above them.
        labels: Class indices, ``(N,)``, ``NO_CLASS`` where there is none.
        class_names: By index; their numbers by default.
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
    if 0 < len(present) <= MOST_NAMES:
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
    # the first two principal components, from which it starts by default, need two dims in which samples differ
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
    """RGBA by class, ``(N, 4)``; classes beyond twenty repeat colours."""
    colours = np.array([matplotlib.colormaps["tab10" if labels.max() < 10 else "tab20"](label) for label in range(20)])
    return np.where(labels[:, None] == NO_CLASS, matplotlib.colors.to_rgba("#999999"), colours[labels % 20])
