"""Pictures of confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from callbacks.parts.figures import shortened

NUMBERED = 12  # up to this many classes each cell has its numbers
NAMED = 60  # up to this many classes each row and column has its name


def confusion_figure(counts: Mapping[str, NDArray[Any]], class_names: Sequence[str] = ()) -> Figure:
    """The confusion matrices of one or more networks side by side, with a row for each true class.

    A colour is the share of a true class that is predicted as a class. With few classes each cell has this share in
    percent, and the count below it. Classes without a sample have a grey row.

    Args:
        counts: The number of samples by true class and predicted class, ``(C, C)``, by the name of the network.
        class_names: By index; empty writes the indices.
    """
    classes = len(next(iter(counts.values())))
    names = [str(index) for index in range(classes)]
    if len(class_names) == classes:
        names = [shortened(name) for name in class_names]
    few = classes <= NUMBERED
    side = float(np.clip(2.2 + 0.62 * classes, 4.0, 9.6) if few else np.clip(0.17 * classes, 6.5, 10.5))
    longest = 0.085 * max(map(len, names)) if classes <= NAMED else 0.0
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=((side + longest) * len(counts) + 0.9, side + longest), layout=layout)
    (grid,) = figure.subplots(1, len(counts), squeeze=False)
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#dddddd")
    for axes, (network, matrix) in zip(grid, counts.items(), strict=True):
        shares = _shares(matrix)
        # the root, so that rare confusions can be seen beside the diagonal
        heat = axes.imshow(shares, cmap=colours, norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
        of = f", n = {matrix.sum()}" if len({int(each.sum()) for each in counts.values()}) > 1 else ""
        axes.set_title(f"{network}\n{_scores(matrix, shares)}{of}", fontsize="medium")
        axes.set(xlabel="predicted class", ylabel="true class")
        _name_classes(axes, names)
        if few:
            _write_numbers(axes, matrix, shares)
    figure.colorbar(heat, ax=grid[-1], label="share of the true class", shrink=0.8)
    return figure


def _shares(matrix: NDArray[Any]) -> NDArray[Any]:
    """The share of each true class that is predicted as each class; NaN for a class without a sample."""
    total = matrix.sum(axis=1, keepdims=True)
    shares: NDArray[Any] = np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    return shares


def _scores(matrix: NDArray[Any], shares: NDArray[Any]) -> str:
    """The accuracy, and its mean over the classes that have samples."""
    if not matrix.sum():
        return "no samples"
    recalls = np.diagonal(shares)
    macro = recalls[~np.isnan(recalls)].mean()
    return f"accuracy {matrix.trace() / matrix.sum():.1%}, mean over classes {macro:.1%}"


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    if len(names) > NAMED:  # indices at regular places
        return
    size = "medium" if len(names) <= NUMBERED else "x-small" if len(names) <= 30 else "xx-small"
    turned = len(names) > 30 or max(map(len, names)) > 4
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _write_numbers(axes: Axes, matrix: NDArray[Any], shares: NDArray[Any]) -> None:
    for row, column in np.ndindex(*matrix.shape):
        share, count = shares[row, column], matrix[row, column]
        if count:
            axes.text(
                column,
                row,
                f"{100 * share:.0f} %\n{_short_number(count)}",
                color="white" if share > 0.35 else "black",
                fontsize="small" if len(matrix) <= 6 else "x-small",
                ha="center",
                va="center",
            )


def _short_number(count: int) -> str:
    """Such as 950, 12.3k, or 4.5M."""
    for unit, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= max(unit, 10_000):
            return f"{count / unit:.1f}{letter}"
    return str(count)
