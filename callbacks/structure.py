"""The structure of the features of teacher and student: how independent the channels are, and how samples spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.parts.classes import class_names
from callbacks.parts.comparison import float64_device
from callbacks.parts.evaluation import DrawingCallback, Split, log_reduced
from callbacks.parts.figures import publish
from callbacks.parts.layer_structure import LayerStructure, Structure
from callbacks.parts.step import Step
from callbacks.parts.structure_figures import NO_CLASS, embedding_figure, similarity_figure
from distill.checks import check_at_least
from distill.distributed import gather, world_size
from distill.errors import UserError, UserKeyError

NETWORKS = ("teacher", "student")
Pair = tuple[str, str]
"""A layer of the teacher and one of the student."""


class FeatureStructure(DrawingCallback):
    r"""Measures and draws the dimensional structure of the features of teacher and student (DS, Fig. 2).

    The feature maps of each layer are averaged over their positions, to ``(N, C)`` for all samples of a validation or
    a test. For teacher and student (``<network>``), it logs:

    - ``<stage>/<network>_correlation``: the mean of :math:`|\cos(f_i, f_j)|` over all pairs of different channels,
      where :math:`f_i` holds channel i of all samples, not centred, as in DS, eq. 6. From 0 (independent) to 1. It is
      exact, whatever the batches and the number of processes are;
    - ``<stage>/<network>_uniformity``: :math:`\log` of the mean of :math:`\exp(-2 \lVert x - y \rVert^2)` over all
      pairs of the first ``max_samples`` samples, with features of length 1 (Wang and Isola, ICML 2020; DS, eq. 11 for
      one network). From -4 (spread evenly, in many dimensions) to 0 (all samples are equal).

    If there are several layers, the names end with the layer: ``val/student_correlation_layer2``. All data come from
    what the steps return, of any LightningModule (``docs/callbacks.md``); no model runs again. Each further loader has
    values of its own, ``val/student_uniformity/<name>``.

    In the run's folder, ``figures/feature_similarity_epoch_0003.png`` shows the :math:`|\cos(f_i, f_j)|` of all
    channels as heat maps. At the end of the fit, ``figures/feature_embedding.png`` shows the samples of the last
    validation in the plane (t-SNE), coloured by class. TensorBoard shows both if that is a logger.

    If no layers are tapped, one warning says so and nothing is measured.

    Args:
        teacher_layers: The tapped layers of the teacher to measure. By default these are all tapped layers in their
            order, or only the last one if teacher and student have different numbers of layers.
        student_layers: The student's layers, one for each of the teacher's.
        max_samples: The number of samples for uniformity and t-SNE; they are the first ones of the validation.
        every_n_epochs: The heat maps of the first validation after each ``every_n_epochs`` epochs are drawn, and those
            of the last validation.

    Raises:
        ValueError: An argument is out of its range, or the numbers of layers differ.
        KeyError: In the first validation: a layer is not tapped.
    """

    logged = ("*_correlation*", "*_uniformity*")

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
        super().__init__(every_n_epochs)
        check_at_least(3, max_samples=max_samples)
        self.pairs: list[Pair] = list(zip(teacher_layers, student_layers, strict=True))
        self.max_samples = max_samples
        self._open: dict[Split, _Features] = {}
        self._structures: dict[Split, _Structures] = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the heat maps of the last validation, unless they are drawn, and the samples in the plane."""
        for split, structures in self._structures.items():
            if self._drawn_epochs != self._epoch + 1:
                self._draw_similarity(split, structures, trainer)
            self._draw_embedding(split, structures, trainer)
        self._structures = {}

    def start(self, split: Split) -> None:
        """Forgets the batches of an earlier epoch."""
        self._open[split] = _Features({}, [])
        self._structures.pop(split, None)

    def add(self, split: Split, trainer: Trainer, pl_module: LightningModule, step: Step) -> None:
        """Adds the features of a batch."""
        features = [step.teacher_features, step.features]
        if not all(features):
            self._warn_once(
                f"{self.idle}: there are no features of teacher and student; name teacher_layers and student_layers of "
                "the method, or return features and teacher_features"
            )
            return
        pairs = self.pairs or _all_or_last(*map(list, features))
        _check_tapped(pairs, features)
        step = step.with_teacher()
        if not len(step.prediction):
            return
        features = [step.teacher_features, step.features]
        device = float64_device(pl_module.device)
        share = -(-self.max_samples // world_size())
        open_ = self._open[split]
        for pair in pairs:
            sums = open_.sums.setdefault(pair, [LayerStructure(share, device) for _ in NETWORKS])
            for layer_sums, layer, network_features in zip(sums, pair, features, strict=True):
                layer_sums.add(network_features[layer])
        missing = share - sum(map(len, open_.labels))
        if missing > 0:
            open_.labels.append(_labels(step)[:missing])

    def close(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch, and every few epochs of a fit draws the heat maps."""
        self._log(split, trainer, pl_module)
        if self._due and split in self._structures:
            self._draw_similarity(split, self._structures[split], trainer)

    def _log(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> None:
        own = self._open.pop(split)
        # a process without a batch does not know the layers' channels
        if not trainer.strategy.reduce_boolean_decision(bool(own.sums)):
            return
        layers = {pair: [sums.compute() for sums in both] for pair, both in own.sums.items()}
        values = {}
        for pair, both in layers.items():
            for network, layer, structure in zip(NETWORKS, pair, both, strict=True):
                suffix = f"_{layer}" if len(layers) > 1 else ""
                values[split.key(f"{network}_correlation{suffix}")] = structure.correlation.float()
                values[split.key(f"{network}_uniformity{suffix}")] = structure.uniformity.float()
        log_reduced(pl_module, values)
        self._structures[split] = _Structures(layers, gather(torch.cat(own.labels)))

    def _draw_similarity(self, split: Split, structures: _Structures, trainer: Trainer) -> None:
        if self._folder is None or not trainer.is_global_zero:
            return
        rows = [
            {
                f"{network}, layer {layer}\nmean off the diagonal {structure.correlation:.3f}": structure.similarity
                for network, layer, structure in zip(NETWORKS, pair, both, strict=True)
            }
            for pair, both in structures.layers.items()
        ]
        suffix = f"_epoch_{self._epoch:04d}{split.file_suffix}"
        publish(similarity_figure(rows), "feature_similarity", self._folder, trainer, suffix)

    def _draw_embedding(self, split: Split, structures: _Structures, trainer: Trainer) -> None:
        if self._folder is None or not trainer.is_global_zero:
            return
        features = [structure.rows for both in structures.layers.values() for structure in both]
        if len(structures.labels) < 3 or not all(rows.isfinite().all() for rows in features):
            rank_zero_warn("FeatureStructure draws no samples: there are fewer than three, or features are not finite")
            return
        rows = [
            {
                f"{network}, layer {layer}\nuniformity {structure.uniformity:.3f}": structure.rows
                for network, layer, structure in zip(NETWORKS, pair, both, strict=True)
            }
            for pair, both in structures.layers.items()
        ]
        figure = embedding_figure(rows, structures.labels, class_names(trainer) or None)
        publish(figure, "feature_embedding", self._folder, trainer, split.file_suffix)


class _Features(NamedTuple):
    """The features of an evaluation that has not ended, by pair of layers, and the labels of the first samples."""

    sums: dict[Pair, list[LayerStructure]]
    labels: list[Tensor]


class _Structures(NamedTuple):
    """The structures of teacher and student of an evaluation by pair of layers, and the labels of their rows."""

    layers: dict[Pair, list[Structure]]
    labels: Tensor


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


def _labels(step: Step) -> Tensor:
    """Class indices ``(N,)``, ``NO_CLASS`` where a sample has no class or a class for each pixel."""
    target = step.target
    if target is None or target.ndim != 1 or target.is_floating_point():
        size = len(step.prediction)
        return torch.full((size,), NO_CLASS, device=step.prediction.device)
    return torch.where(target == step.ignore_index, NO_CLASS, target)
