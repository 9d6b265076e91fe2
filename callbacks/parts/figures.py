"""Writes figures to a run's folder and to TensorBoard, and draws modalities and the curves of the divergences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from distill.atomic import atomic_write

PART_COLOURS = {"all classes": "#333333", "target class": "#0072b2", "non-target classes": "#d55e00"}
STAGE_STYLES = {"train": "-", "val": "--"}
LONGEST_NAME = 18  # letters


def shortened(name: str) -> str:
    """The name of a class, cut off where it would run into others."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def publish(figure: Figure, name: str, folder: Path, trainer: Trainer, suffix: str = "") -> None:
    """Writes ``figures/<name><suffix>.png`` to the folder, and the figure to TensorBoard if that is a logger.

    TensorBoard shows all pictures of one ``name`` as one series.
    """
    canvas = FigureCanvasAgg(figure)
    with atomic_write(folder / "figures" / f"{name}{suffix}.png") as draft:
        figure.savefig(draft, dpi=150)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            canvas.draw()  # type: ignore[no-untyped-call]
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
            # add_figure() would import pyplot, which has a global state
            logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")


def as_picture(modality: Tensor) -> NDArray[Any]:
    """A modality ``(C, H, W)`` as an RGB picture ``(H, W, 3)``, with values from 0 to 1.

    Three channels are taken as RGB; otherwise the first channel is drawn in a colour map. RGB from 0 to 1 stays as it
    is; all other values are stretched to the range from 0 to 1.
    """
    if len(modality) != 3:
        modality = modality[:1]
    low, high = modality.min(), modality.max()
    if len(modality) == 3 and low >= 0 and high <= 1:
        return np.moveaxis(modality.float().numpy(), 0, -1)
    stretched = ((modality - low) / (high - low).clamp(min=1e-12)).float().numpy()
    if len(stretched) == 3:
        return np.moveaxis(stretched, 0, -1)
    colours: NDArray[Any] = matplotlib.colormaps["viridis"](stretched[0])[..., :3]
    return colours


def divergence_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """The curves of a fit: CMD of the outputs, and CMD and JSD of their target and non-target parts.

    Args:
        rows: The rows of ``divergence.csv``.
    """
    figure = Figure(figsize=(12.5, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    input_cmds = [f" (CMD of their inputs: {row['input_cmd']:.3g})" for row in rows if row["input_cmd"] is not None]
    figure.suptitle("Divergence between teacher and student" + "".join(input_cmds[:1]))
    outputs, cmd, jsd = figure.subplots(1, 3)
    _draw(outputs, rows, {"all classes": "cmd"})
    outputs.set(title="CMD of the output probabilities", ylabel="CMD")
    _draw(cmd, rows, {"target class": "cmd_target", "non-target classes": "cmd_nontarget"})
    cmd.set(title="CMD of their two parts", ylabel="CMD")
    _draw(jsd, rows, {"target class": "tcjsd", "non-target classes": "ncjsd"})
    jsd.set(title="JSD of their two parts", ylabel="Jensen-Shannon divergence (nats)")
    return figure


def _draw(axes: Axes, rows: Sequence[dict[str, Any]], parts: dict[str, str]) -> None:
    for part, column in parts.items():
        for stage, style in STAGE_STYLES.items():
            points = [(row["epoch"], row[column]) for row in rows if row["stage"] == stage]
            if points:
                marker = "o" if len(points) <= 30 else None
                axes.plot(
                    *zip(*points, strict=True),
                    linestyle=style,
                    color=PART_COLOURS[part],
                    marker=marker,
                    markersize=4,
                    markerfacecolor="white" if stage == "val" else PART_COLOURS[part],
                    label=f"{part}, {stage}",
                )
    epochs = [row["epoch"] for row in rows]
    axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
    highest = max((row[column] for row in rows for column in parts.values() if row[column] > 0), default=1.0)
    axes.set_ylim(0, 1.08 * highest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
