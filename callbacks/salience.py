"""Pictures of the result of FeatureMask: the salience of the teacher's features, and their masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from callbacks.parts.figures import publish
from callbacks.parts.run_folder import run_folder
from datamodules.masked_features import MaskMode, feature_masks, read_salience
from distill.checks import check_share

MASK_COLOURS = {"true": "#d55e00", "false": "#0072b2", "neither": "0.75"}


class SalienceMap(Callback):
    """Draws ``salience.npz`` at the end of a fit of :class:`~distill.FeatureMask`, as ``figures/salience.png``.

    An image modality has a heat map and the features that each of the three masks removes (NTDH Fig. 10). A vector
    modality has bars in the colours of the true and the false mask. TensorBoard shows the figure if that is a logger.

    Args:
        ratio: The share of the features that the drawn masks remove.

    Raises:
        ValueError: The ratio lies outside [0, 1].
    """

    def __init__(self, ratio: float = 0.25) -> None:
        check_share(ratio=ratio)
        self.ratio = ratio

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the salience that the module has just written."""
        folder = run_folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        path = folder / "salience.npz"
        if path.is_file():
            publish(salience_figure(read_salience(path), self.ratio), "salience", folder, trainer)


def salience_figure(salience: Mapping[str, NDArray[Any]], ratio: float) -> Figure:
    """A row for each modality: its heat map and three masks, or bars.

    Args:
        salience: In [0, 1], by modality, in the shape of its features.
        ratio: The share of the features that the masks remove.
    """
    masks = {mode: feature_masks(salience, ratio, mode) for mode in get_args(MaskMode)}
    figure = Figure(figsize=(11, 3.2 * len(salience)), layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05))
    grid = figure.add_gridspec(len(salience), 4)
    for row, (name, values) in enumerate(salience.items()):
        modality_masks = {mode: masks[mode][name].numpy() for mode in masks}
        if values.ndim == 2:
            axes = [figure.add_subplot(grid[row, column]) for column in range(4)]
            _draw_maps(axes, name, values, modality_masks, ratio)
        else:
            _draw_bars(figure.add_subplot(grid[row, :]), name, values.ravel(), modality_masks, ratio)
    return figure


def _draw_maps(
    axes: list[Axes], name: str, values: NDArray[Any], masks: Mapping[str, NDArray[Any]], ratio: float
) -> None:
    low = values.min()  # permutation gives images values near 1 only, which look the same on a scale from 0
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
    axes.bar(range(len(values)), values, color=[MASK_COLOURS[kind] for kind in kinds], width=0.8)
    axes.set(xlabel=f"feature of {name}", ylabel="salience", ylim=(0, 1.05), xlim=(-0.6, len(values) - 0.4))
    names = {kind: f"{kind} mask, {ratio:.0%}" for kind in ("true", "false")} | {"neither": "neither"}
    handles = [Patch(color=MASK_COLOURS[kind], label=label) for kind, label in names.items()]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
