"""One picture of the depth that several students predict for the same scenes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from callbacks.parts.depth_figures import CELL, depth_bar, depth_norm, painted_depth


def depth_comparison(files: Mapping[str, Path]) -> Figure:
    """A figure of the depth that several students predict (TIE-KD, Fig. 3): a column per scene, a row per student.

    The image, the target if there is one, and the teacher, unless it is a row itself, stand above the students.

    Args:
        files: For each student, by the name of its row, ``depth_test.npz`` of :class:`~callbacks.DepthGallery`.

    Raises:
        ValueError: There is no file, or two files hold different scenes.
    """
    if not files:
        raise ValueError("there is nothing to compare: give at least one depth_test.npz")
    runs = {name: _read(path) for name, path in files.items()}
    image, target = (next(iter(runs.values()))[key] for key in ("image", "target"))
    for name, run in runs.items():
        if not np.array_equal(run["target"], target):
            raise ValueError(f"{files[name]} holds other scenes than {next(iter(files.values()))}")
    rows = {"target": target} if target.any() else {}
    rows |= _teachers(runs) | {name: run["student"] for name, run in runs.items()}
    norm = depth_norm(rows.values())
    scenes, height, width = target.shape
    figure = Figure(
        figsize=(CELL * scenes + 1.2, (CELL * height / width + 0.05) * (len(rows) + 1) + 0.6),
        layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.02, wspace=0.01, hspace=0.01),
    )
    grid = figure.subplots(len(rows) + 1, scenes, squeeze=False)
    pictures = {"image": image} | {name: [painted_depth(depth, norm) for depth in row] for name, row in rows.items()}
    for axes_row, (name, row) in zip(grid, pictures.items(), strict=True):
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        for axes, picture in zip(axes_row, row, strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    depth_bar(figure, norm, ax=list(grid[-1]), aspect=60, pad=0.06)
    return figure


def _teachers(runs: Mapping[str, Mapping[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    """The teachers that are not rows already, each one once."""
    rows = [run["student"] for run in runs.values()]
    found: dict[str, NDArray[np.float32]] = {}
    for name, run in runs.items():
        # the size of a batch changes a teacher's depth by less than a centimetre
        known = [*rows, *found.values()]
        if "teacher" in run and not any(np.allclose(run["teacher"], depth, atol=0.01) for depth in known):
            found[f"teacher of {name}"] = run["teacher"]
    return dict(zip(["teacher"], found.values(), strict=True)) if len(found) == 1 else found


def _read(path: Path) -> dict[str, NDArray[np.float32]]:
    with np.load(path) as arrays:
        return dict(arrays)
