"""What a fit of FeatureMask found: the salience of the teacher's features, and the masks that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from callbacks.parts.figures import publish
from datamodules.masked_features import MaskMode, feature_masks
from distill.errors import UserError

COLOURS = {"true": "#d55e00", "false": "#0072b2", "neither": "0.75"}


class SalienceMap(Callback):
    """Draws ``salience.npz`` at the end of a fit of :class:`~distill.FeatureMask`, as ``figures/salience.png``.

    Of images there is a heat map, and beside it what the three masks take away (NTDH Fig. 10); of vectors there are
    bars, in the colours of the true and the false mask. In TensorBoard as well where that is a logger.

    Args:
        ratio: The share that the drawn masks take away.

    Raises:
        ValueError: The ratio lies outside [0, 1].
    """

    def __init__(self, ratio: float = 0.25) -> None:
        if not 0 <= ratio <= 1:
            raise UserError(f"ratio must lie in [0, 1], got {ratio}")
        self.ratio = ratio

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws what the module has just written."""
        folder = trainer.log_dir  # on all processes, as Lightning asks for
        if folder is None or not trainer.is_global_zero:
            return
        path = Path(folder) / "salience.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                salience = {name: file[name] for name in file.files}
            publish(salience_figure(salience, self.ratio), "salience", Path(folder), trainer)


def salience_figure(salience: Mapping[str, NDArray[Any]], ratio: float) -> Figure:
    """One row a modality: a heat map of it and three masks, or bars.

    Args:
        salience: In [0, 1], by modality, in the shape of its features.
        ratio: The share that the masks take away.
    """
    masks = {mode: feature_masks(salience, ratio, mode) for mode in get_args(MaskMode)}
    figure = Figure(figsize=(11, 3.2 * len(salience)), layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05))
    grid = figure.add_gridspec(len(salience), 4)
    for row, (name, values) in enumerate(salience.items()):
        own = {mode: masks[mode][name].numpy() for mode in masks}
        if values.ndim == 2:
            axes = [figure.add_subplot(grid[row, column]) for column in range(4)]
            _draw_maps(axes, name, values, own, ratio)
        else:
            _draw_bars(figure.add_subplot(grid[row, :]), name, values.ravel(), own, ratio)
    return figure


def _draw_maps(
    axes: list[Axes], name: str, values: NDArray[Any], masks: Mapping[str, NDArray[Any]], ratio: float
) -> None:
    low = values.min()  # by permutation images have values near 1 alone, which a scale from 0 on would not tell apart
    heat = axes[0].imshow(values, cmap="magma", vmin=low, vmax=1, interpolation="nearest")
    axes[0].set_title(f"salience of {name}", fontsize="medium")
    axes[0].figure.colorbar(heat, ax=axes[0], shrink=0.8)
    for panel, (mode, mask) in zip(axes[1:], masks.items(), strict=True):
        panel.imshow(np.where(mask, values, np.nan), cmap="magma", vmin=low, vmax=1, interpolation="nearest")
        panel.set_facecolor("0.85")
        panel.set_title(f"{mode} mask, {ratio:.0%}", fontsize="medium")
    for panel in axes:
        panel.set(xticks=[], yticks=[])


def _draw_bars(axes: Axes, name: str, values: NDArray[Any], masks: Mapping[str, NDArray[Any]], ratio: float) -> None:
    kinds = [
        "true" if masks["true"].ravel()[n] else "false" if masks["false"].ravel()[n] else "neither"
        for n in range(len(values))
    ]
    axes.bar(range(len(values)), values, color=[COLOURS[kind] for kind in kinds], width=0.8)
    axes.set(xlabel=f"feature of {name}", ylabel="salience", ylim=(0, 1.05), xlim=(-0.6, len(values) - 0.4))
    names = {kind: f"{kind} mask, {ratio:.0%}" for kind in ("true", "false")} | {"neither": "neither"}
    handles = [Patch(color=COLOURS[kind], label=label) for kind, label in names.items()]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
