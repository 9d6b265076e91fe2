"""How the features of teacher and student are made: whether their channels are independent, and how samples spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.parts.comparison import float64_device
from callbacks.parts.evaluation import EvaluationCallback
from callbacks.parts.figures import publish
from callbacks.parts.layer_structure import LayerStructure, Structure
from callbacks.parts.structure_figures import NO_CLASS, embedding_figure, similarity_figure
from distill.distributed import gather, world_size
from distill.errors import UserError, UserKeyError

NETWORKS = ("teacher", "student")
Pair = tuple[str, str]
"""A layer of the teacher and one of the student."""


class FeatureStructure(EvaluationCallback):
    r"""Measures and draws the dimensional structure of the features of teacher and student (DS, Fig. 2).

    Of each layer, whose maps are averaged over their positions to ``(N, C)``, over the samples of a validation or test,
    for ``<network>`` teacher and student:

    - ``<stage>/<network>_correlation``: the mean of :math:`|\cos(f_i, f_j)|` over all pairs of different channels,
      where :math:`f_i` holds channel i of all samples, not centred, as in DS, eq. 6. From 0 (independent) to 1. It is
      exact however the samples are split into batches and over processes;
    - ``<stage>/<network>_uniformity``: :math:`\log` of the mean of :math:`\exp(-2 \lVert x - y \rVert^2)` over all
      pairs of samples, with features of length 1 (Wang and Isola, ICML 2020; DS, eq. 11 for one network). From -4
      (spread evenly, in many dimensions) to 0 (all alike); of the first ``max_samples``.

    Where there are several layers, their names follow: ``val/student_correlation_layer2``. All of it comes from what
    the steps return; no model runs again.

    In the run's folder, ``figures/feature_similarity_epoch_0003.png`` shows the :math:`|\cos(f_i, f_j)|` of all
    channels as heat maps, and at the end of the fit ``figures/feature_embedding.png`` the last validation's samples in
    the plane (t-SNE), coloured by class. Both are images in TensorBoard where that is a logger.

    Nothing is measured, with one warning, where no layers are tapped.

    Args:
        teacher_layers: Which of the tapped layers. If left out, all of them in the order in which they were named, or
            the last one where the student has another number of them.
        student_layers: As many of the student's, to stand beside them.
        max_samples: How many samples are kept for uniformity and t-SNE, the first ones of the validation.
        every_n_epochs: Draws the heat maps of the first validation after each so many epochs, and of the last one.

    Raises:
        ValueError: An argument is out of its range, or the numbers of layers differ.
        KeyError: In the first validation: a layer is not tapped.
    """

    def __init__(
        self,
        teacher_layers: Sequence[str] = (),
        student_layers: Sequence[str] = (),
        max_samples: int = 1000,
        every_n_epochs: int = 5,
    ) -> None:
        if len(teacher_layers) != len(student_layers):
            raise UserError(
                "teacher_layers and student_layers must be pairs, got "
                f"{len(teacher_layers)} and {len(student_layers)} layers"
            )
        if max_samples < 3:
            raise UserError(f"max_samples must be at least 3, got {max_samples}")
        if every_n_epochs < 1:
            raise UserError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.pairs: list[Pair] = list(zip(teacher_layers, student_layers, strict=True))
        self.max_samples = max_samples
        self.every_n_epochs = every_n_epochs
        self._sums: dict[Pair, list[LayerStructure]] = {}
        self._labels: list[Tensor] = []
        self._found: dict[Pair, list[Structure]] = {}
        self._found_labels = torch.empty(0)
        self._epoch = 0
        self._drawn = 0
        self._folder: Path | None = None
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run's folder, on all processes as Lightning asks for."""
        folder = None if trainer.fast_dev_run else trainer.log_dir  # type: ignore[attr-defined]
        self._folder = None if folder is None else Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts from the epoch on which a fit that goes on builds."""
        self._drawn = trainer.current_epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the heat maps of the last epoch, unless it was their turn, and the samples in the plane."""
        if self._drawn != self._epoch + 1:
            self._draw_similarity(trainer)
        self._draw_embedding(trainer)
        self.start("val")

    def start(self, stage: str) -> None:
        """Starts anew."""
        self._sums, self._labels = {}, []
        self._found, self._found_labels = {}, torch.empty(0)

    def add(self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """Adds the features of a batch."""
        if not outputs:  # Lightning's answer to a step that was skipped
            return
        features = [outputs.get("teacher_features"), outputs.get("features")]
        if not all(features):
            if not self._warned:
                rank_zero_warn(
                    "FeatureStructure measures nothing: there are no features of teacher and student; name "
                    "teacher_layers and student_layers of the method"
                )
            self._warned = True
            return
        pairs = self.pairs or _all_or_last(*map(list, features))
        _check_tapped(pairs, features)
        device = float64_device(pl_module.device)
        share = -(-self.max_samples // world_size())
        for pair in pairs:
            sums = self._sums.setdefault(pair, [LayerStructure(share, device) for _ in NETWORKS])
            for of_network, layer, found in zip(sums, pair, features, strict=True):
                of_network.add(found[layer])
        missing = share - sum(map(len, self._labels))
        if missing > 0:
            self._labels.append(_labels(outputs, batch)[:missing])

    def close(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch, and every few epochs of a fit draws the heat maps."""
        self._log(stage, trainer, pl_module)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._epoch = trainer.current_epoch
        done = self._epoch + 1
        if done // self.every_n_epochs > self._drawn // self.every_n_epochs:
            self._draw_similarity(trainer)
            self._drawn = done

    def _log(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        # without a batch a process does not know the layers' channels
        if not trainer.strategy.reduce_boolean_decision(bool(self._sums)):
            return
        self._found = {pair: [sums.compute() for sums in both] for pair, both in self._sums.items()}
        self._found_labels = gather(torch.cat(self._labels))
        self._sums, self._labels = {}, []
        values = {}
        for pair, both in self._found.items():
            for network, layer, structure in zip(NETWORKS, pair, both, strict=True):
                suffix = f"_{layer}" if len(self._found) > 1 else ""
                values[f"{stage}/{network}_correlation{suffix}"] = structure.correlation.float()
                values[f"{stage}/{network}_uniformity{suffix}"] = structure.uniformity.float()
        # equal on all processes already: sync_dist only tells Lightning not to warn
        pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)

    def _draw_similarity(self, trainer: Trainer) -> None:
        if not self._found or self._folder is None or not trainer.is_global_zero:
            return
        rows = [
            {
                f"{network}, layer {layer}\nmean off the diagonal {structure.correlation:.3f}": structure.similarity
                for network, layer, structure in zip(NETWORKS, pair, both, strict=True)
            }
            for pair, both in self._found.items()
        ]
        publish(similarity_figure(rows), "feature_similarity", self._folder, trainer, f"_epoch_{self._epoch:04d}")

    def _draw_embedding(self, trainer: Trainer) -> None:
        if not self._found or self._folder is None or not trainer.is_global_zero:
            return
        everything = [structure.rows for both in self._found.values() for structure in both]
        if len(self._found_labels) < 3 or not all(rows.isfinite().all() for rows in everything):
            rank_zero_warn("FeatureStructure draws no samples: there are fewer than three, or features are not finite")
            return
        rows = [
            {
                f"{network}, layer {layer}\nuniformity {structure.uniformity:.3f}": structure.rows
                for network, layer, structure in zip(NETWORKS, pair, both, strict=True)
            }
            for pair, both in self._found.items()
        ]
        names = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        publish(embedding_figure(rows, self._found_labels, names), "feature_embedding", self._folder, trainer)


def _all_or_last(teacher_layers: list[str], student_layers: list[str]) -> list[Pair]:
    if len(teacher_layers) != len(student_layers):
        return [(teacher_layers[-1], student_layers[-1])]
    return list(zip(teacher_layers, student_layers, strict=True))


def _check_tapped(pairs: Sequence[Pair], features: Sequence[Mapping[str, Tensor]]) -> None:
    for pair in pairs:
        for network, layer, tapped in zip(NETWORKS, pair, features, strict=True):
            if layer not in tapped:
                raise UserKeyError(
                    f"FeatureStructure cannot find the layer {layer} among the tapped ones of the {network}: "
                    f"{', '.join(tapped)}"
                )


def _labels(outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Class indices ``(N,)``, ``NO_CLASS`` where a sample has none or one for each of its pixels."""
    target = batch.get("target")
    if target is None or target.ndim != 1 or target.is_floating_point():
        size = len(outputs["prediction"])
        return torch.full((size,), NO_CLASS, device=outputs["prediction"].device)
    return torch.where(target == outputs["ignore_index"], NO_CLASS, target)
