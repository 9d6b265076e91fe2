"""Depth in pictures: near is bright, far is dark, and no depth is grey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray
from torch import Tensor

from callbacks.parts.figures import as_picture

PICTURE_WIDTH = 3.2  # inches
BINS_HEIGHT = 2.6  # inches
DEPTH_COLOURS = matplotlib.colormaps["magma_r"].with_extremes(bad="#b8b8b8")
ERROR_COLOURS = matplotlib.colormaps["YlOrRd"].with_extremes(bad="#b8b8b8")
# 0.25 is the largest error of a too far prediction that the accuracy delta_1 accepts
ERROR_NORM = Normalize(0, 0.25)
SPARSE_SHARE = 0.5
"""A map with a smaller share of measured pixels is taken as a lidar's, and its points are drawn larger."""


@dataclass(frozen=True)
class DepthViews:
    """The pictures of one sample, on the CPU.

    Args:
        image: The scene's image, ``(C, H, W)``, even if no model takes it as an input.
        modalities: The inputs of the models by name, ``(C, H, W)`` each.
        target: Metres, ``(H, W)``; 0 where there is no ground truth.
        student: Metres, ``(H, W)``.
        teacher: Metres, ``(H, W)``; 0 where there is no response.
        student_bins: The student's probabilities over the bins along one pixel row, ``(bins, columns)``.
        teacher_bins: The teacher's depth probability map along the same row, ``(bins, columns)``.
    """

    image: Tensor
    modalities: dict[str, Tensor]
    target: Tensor
    student: Tensor
    teacher: Tensor | None = None
    student_bins: Tensor | None = None
    teacher_bins: Tensor | None = None


def depth_figure(
    samples: Sequence[DepthViews], bins_range: tuple[float, float] = (1e-3, 80.0), row: float | None = None
) -> Figure:
    """A row of pictures for each sample: modalities, target, depth of teacher and student, and the student's error.

    The error is AbsRel, ``|student - target| / target``; if no sample has ground truth, it is against the teacher.
    Below are the probabilities over the bins along one pixel row of the first sample, if it has bins.

    Args:
        samples: At least one, all with the same views of the same size.
        bins_range: The lower and the upper end of the bins, in metres.
        row: The pixel row, as a fraction of the height from the top; ``None`` draws no bins.
    """
    first = samples[0]
    height, width = first.target.shape
    depths = [name for name in ("target", "teacher", "student") if getattr(first, name) is not None]
    columns = len(first.modalities) + len(depths) + 1
    gallery_height = (PICTURE_WIDTH * height / width + 0.1) * len(samples) + 1.1
    has_bins = row is not None and first.student_bins is not None and first.teacher_bins is not None
    figure = Figure(
        figsize=(PICTURE_WIDTH * columns, gallery_height + BINS_HEIGHT * has_bins),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.06, wspace=0.01, hspace=0.01),
    )
    ratios = [gallery_height, BINS_HEIGHT] if has_bins else [gallery_height]
    parts = figure.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
    _draw_gallery(parts[0], samples, depths)
    if row is not None and has_bins:
        _mark_row(parts[0], int(row * height), columns)
        _draw_bins(parts[1], first, bins_range, row)
    return figure


def _draw_gallery(figure: SubFigure, samples: Sequence[DepthViews], depths: Sequence[str]) -> None:
    first = samples[0]
    reference = "target" if first.teacher is None or any(bool(views.target.any()) for views in samples) else "teacher"
    student = "prediction" if first.teacher is None else "student"
    titles = [*first.modalities, *depths[:-1], student, f"|{student} − {reference}| / {reference}"]  # noqa: RUF001
    # the colour bars have a row of their own, so that all pictures keep one size
    height, width = first.target.shape
    rows = len(samples)
    cells = figure.add_gridspec(rows + 1, len(titles), height_ratios=[height / width] * rows + [0.05])
    grid = [[figure.add_subplot(cells[row, column]) for column in range(len(titles))] for row in range(rows)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize="medium")
    norm = depth_norm([torch.stack([getattr(views, name) for views in samples]).numpy() for name in depths])
    for row, views in zip(grid, samples, strict=True):
        pictures = [as_picture(modality) for modality in views.modalities.values()]
        pictures += [depth_picture(getattr(views, name).numpy(), norm) for name in depths]
        pictures.append(_error_picture(views.student.numpy(), getattr(views, reference).numpy()))
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
    depth_bar(figure, norm, cax=figure.add_subplot(cells[-1, len(first.modalities) : -1]))
    figure.colorbar(
        ScalarMappable(ERROR_NORM, ERROR_COLOURS),
        cax=figure.add_subplot(cells[-1, -1]),
        orientation="horizontal",
        extend="max",
        label="absolute relative error",
        format=PercentFormatter(1, decimals=0),
    )


def _mark_row(figure: SubFigure, row: int, columns: int) -> None:
    for axes in figure.axes[:columns]:
        # black and white dashes are visible on every colour
        axes.axhline(row, color="black", linewidth=1)
        axes.axhline(row, color="white", linewidth=1, linestyle=(0, (4, 4)))


def _draw_bins(figure: SubFigure, views: DepthViews, bins_range: tuple[float, float], row: float) -> None:
    """Draws the probabilities of teacher and student side by side, with the depth upwards and the ground truth."""
    assert views.teacher_bins is not None
    assert views.student_bins is not None
    maps = {
        "teacher's depth probability map": views.teacher_bins.numpy(),
        "student's probabilities": views.student_bins.numpy(),
    }
    height, width = views.target.shape
    target = views.target[int(row * height)].numpy()
    (measured,) = target.nonzero()
    # most probabilities are small: the square root makes them visible beside the peaks
    norm = PowerNorm(0.5, 0, max(bins.max() for bins in maps.values()))
    highest = max(target.max(), *(_highest(bins, bins_range) for bins in maps.values()))
    panels = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axes, (title, bins) in zip(panels, maps.items(), strict=True):
        extent = (-0.5, width - 0.5, *bins_range)
        axes.imshow(bins, cmap="Blues", norm=norm, aspect="auto", origin="lower", extent=extent)
        axes.plot(measured, target[measured], ".", color="#d55e00", markersize=1.5, label="target")
        axes.set_title(f"{title} along the marked row", fontsize="medium")
        axes.set(xlabel="column (pixels)", ylim=(bins_range[0], min(1.1 * highest, bins_range[1])))
    if measured.size:
        panels[0].legend(loc="upper right", markerscale=6, fontsize="small")
    panels[0].set_ylabel("depth (m)")
    figure.colorbar(ScalarMappable(norm, "Blues"), ax=list(panels), label="probability of a bin", pad=0.01)


def _highest(bins: NDArray[np.float32], bins_range: tuple[float, float]) -> float:
    """The upper edge of the farthest bin that is visible beside the most probable bin."""
    edges = np.linspace(*bins_range, len(bins) + 1)
    return float(edges[1:][(bins > 0.02 * bins.max()).any(1)].max(initial=bins_range[0]))


def depth_norm(depths: Iterable[NDArray[np.float32]]) -> LogNorm:
    """The range of the first maps with any depth, without the nearest and the farthest percent."""
    measured = next((values for maps in depths if (values := maps[maps > 0]).size), np.ones(1))
    low, high = np.percentile(measured, (1, 99))
    return LogNorm(low, max(high, 1.01 * low))


def depth_bar(figure: Figure | SubFigure, norm: LogNorm, **place: Any) -> None:
    """Draws the scale of the depths below the maps."""
    figure.colorbar(
        ScalarMappable(norm, DEPTH_COLOURS),
        orientation="horizontal",
        extend="both",
        label="depth (m)",
        ticks=LogLocator(subs=(1, 2, 5)),
        format=StrMethodFormatter("{x:g}"),
        **place,
    ).ax.xaxis.set_minor_formatter(NullFormatter())


def depth_picture(depth: NDArray[np.float32], norm: Normalize) -> NDArray[np.float64]:
    """A map of depths in metres as a picture, ``(H, W, 3)`` from 0 to 1."""
    depth = depth.ravel()[_nearest_points(depth)]
    picture: NDArray[np.float64] = DEPTH_COLOURS(norm(np.ma.masked_where(~(depth > 0), depth)))[..., :3]
    return picture


def _error_picture(student: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    source = _nearest_points(reference)
    student, reference = student.ravel()[source], reference.ravel()[source]
    measured = reference > 0
    error = np.abs(student - reference) / np.where(measured, reference, 1)
    picture: NDArray[np.float64] = ERROR_COLOURS(ERROR_NORM(np.ma.masked_where(~measured, error)))[..., :3]
    return picture


def _nearest_points(depth: NDArray[np.float32]) -> NDArray[np.int64]:
    """The index of the pixel to draw at each pixel: itself, or in a sparse map the nearest depth around it."""
    own = np.arange(depth.size).reshape(depth.shape)
    if not 0 < (depth > 0).mean() < SPARSE_SHARE:
        return own
    inverse = torch.from_numpy(np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0))
    reach = round(depth.shape[1] / 480)
    _, around = F.max_pool2d(inverse[None], 2 * reach + 1, 1, reach, return_indices=True)
    return np.where(depth > 0, own, around[0].numpy())
