"""NTDH, Algorithm 1: two networks learn side by side, then tell which input features their divergence hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from rich.progress import track
from torch import Tensor, nn

from distill.atomic import atomic_write
from distill.distributed import gather, world_size
from distill.errors import UserError
from distill.feature_mask.salience import Salience, count_features, feature_divergence, feature_shape
from distill.losses.parts.logits import check_temperature, kl_divergence
from distill.outputs import Batch, autocast_off, full_precision, prediction_of
from distill.supervised import Supervised
from distill.tasks import Task
from distill.training.training_set import no_samples, training_set

FEATURES_AT_ONCE = 64


class FeatureMask(Supervised):
    r"""The feature mask of the non-target divergence hypothesis: joint training, then the salience of each feature.

    Chen et al., "Non-target divergence hypothesis: toward understanding domain gaps in cross-modal knowledge
    distillation", 2024, Algorithm 1. The two networks are trained together,

    .. math::
        L = w \, T^2 \, \mathrm{KL}(f_a(x^a) \,\|\, f_b(x^b)) + \mathrm{CE}(y, f_a(x^a)) + \mathrm{CE}(y, f_b(x^b))

    (eq. 26), with a gradient to both from every term. At the end of the fit ``salience.npz`` in the run's folder holds
    for each modality of the teacher, under its name, the salience of its features in [0, 1]: the NCJSD of the two
    networks where that feature is changed (:func:`~distill.feature_mask.salience.feature_divergence`), over the largest
    one. A feature is a value of a vector ``(N, D)``, or a pixel with all its channels. What
    :class:`~datamodules.MaskedFeatures` makes of the file is the mask, for any method;
    :class:`~callbacks.SalienceMap` draws it.

    As printed, permuting a feature on which both networks rely raises their divergence most, so the highest salience
    marks what the modalities *share*. ``salience="solo"`` asks instead how far apart the networks are where the
    feature is all that the teacher sees, and puts first what only the teacher has. ``docs/ntdh_masks.md`` has what
    each does.

    Args:
        teacher: f_a, the network of the teacher's modality; trained, unlike any other teacher here.
        student: f_b, the network of the student's modality. ``self(*inputs)``, the scores and ``best.ckpt`` are its.
        task: The hard loss and the metrics; its predictions must be logits of classes.
        teacher_inputs: The names of the modalities that the teacher sees, whose features are told apart.
        student_inputs: The names of the modalities that the student sees.
        optimizer: Given the trained parameters, makes the optimiser.
        lr_scheduler: Given the optimiser, makes the schedule.
        distance_weight: w, the weight of the distance of eq. 26; 1 as printed.
        temperature: T, by which the logits of both are divided in the distance.
        salience: How a feature is changed: ``"permute"`` as printed, ``"zero"``, or ``"solo"``.
        repeats: M, how often each feature is permuted; the paper leaves it open.
        fill: The value in place of what is taken away.
        max_samples: So many samples, evenly from the training set, are looked at; all with ``None``.
        rows: About so many samples pass the teacher at once, each feature in a copy of its own.

    Raises:
        ValueError: An argument is out of its range; from ``setup``, the predictions are no logits of classes.
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        student: nn.Module | None = None,
        task: Task | None = None,
        teacher_inputs: Sequence[str] = (),
        student_inputs: Sequence[str] = (),
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        distance_weight: float = 1.0,
        temperature: float = 1.0,
        salience: Salience = "permute",
        repeats: int = 10,
        fill: float = 0.0,
        max_samples: int | None = 1024,
        rows: int = 4096,
    ) -> None:
        super().__init__(student, task, student_inputs, optimizer, lr_scheduler)
        if salience not in get_args(Salience):
            raise UserError(f"salience must be one of {', '.join(get_args(Salience))}, got {salience!r}")
        if distance_weight < 0:
            raise UserError(f"distance_weight must be 0 or more, got {distance_weight}")
        for name, value in (
            ("repeats", repeats),
            ("max_samples", 1 if max_samples is None else max_samples),
            ("rows", rows),
        ):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        check_temperature(temperature)
        self.teacher = teacher
        self.teacher_inputs = tuple(teacher_inputs)
        self.distance_weight = distance_weight
        self.temperature = temperature
        self.salience: Salience = salience
        self.repeats = repeats
        self.fill = fill
        self.max_samples = max_samples
        self.rows = rows
        self._seed = int(torch.randint(2**31, ()))

    def predict_teacher(self, batch: Batch) -> Tensor:
        """The teacher's logits for a batch, with one value for each position of its target."""
        inputs = self._inputs(self.teacher_inputs, batch)
        return self._at_targets(full_precision(prediction_of(self._require("teacher")(*inputs))), batch)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Equation 26, its terms apart."""
        teacher, student = self.predict_teacher(batch), self.predict(batch)
        terms = {"distance": self._distance(student, teacher, batch), "teacher_hard": self.hard_loss(teacher, batch)}
        terms["hard"] = self.hard_loss(student, batch)
        loss = torch.stack(list(terms.values())).sum()
        self._log_losses(loss, terms, batch)
        return {"loss": loss, **self.step_output(teacher, student, batch)}

    def on_train_end(self) -> None:
        """Writes the salience of the teacher's features."""
        folder = self.trainer.log_dir  # on all processes, as Lightning asks for
        salience = self._salience()
        if self.trainer.is_global_zero and folder is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            with atomic_write(Path(folder) / "salience.npz") as draft:
                arrays: dict[str, Any] = {name: values.cpu().numpy() for name, values in salience.items()}
                np.savez(draft, **arrays)

    @torch.no_grad()
    def _salience(self) -> dict[str, Tensor]:
        """The salience of each feature, by modality, in the shape of its features."""
        for network in (self._require("teacher"), self._require("network")):
            network.eval()
        batch = self._samples()
        modalities = {name: batch[name] for name in self.teacher_inputs}
        own = range(self.trainer.global_rank, count_features(modalities), self.trainer.world_size)
        shown = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        student = torch.cat([self.predict(part) for part in _split(batch, self.rows)])
        # of the first process, and asked for once: the processes may have features for different numbers of rounds
        seed = int(gather(torch.tensor([self._seed], device=self.device))[0])
        none = torch.empty(0, dtype=torch.float64, device=self.device)  # for more processes than features
        divergence = [
            feature_divergence(
                # the target says to which size maps are brought, the rest of the batch is not asked for
                lambda inputs: self.predict_teacher({**inputs, "target": batch["target"][:1]}),
                modalities,
                student,
                batch["target"],
                own[start : start + FEATURES_AT_ONCE],
                salience=self.salience,
                repeats=self.repeats,
                fill=self.fill,
                seed=seed,
                rows=self.rows,
                ignore_index=self._task.ignore_index,
            )
            for start in track(
                range(0, len(own), FEATURES_AT_ONCE), "salience of the features", disable=not shown, transient=True
            )
        ]
        found = _interleaved(torch.cat([none, *divergence]).float())
        found = found / found.max().clamp(min=torch.finfo(found.dtype).tiny)
        parts = found.split([feature_shape(values).numel() for values in modalities.values()])
        return {
            name: part.view(feature_shape(values))
            for (name, values), part in zip(modalities.items(), parts, strict=True)
        }

    def _samples(self) -> Batch:
        """Those that the features are changed of, the same on all processes."""
        names = {*self.teacher_inputs, *self.inputs, "target"}
        asked = self.trainer, self.device, "reading the training set"
        batches = list(training_set(*asked, self.max_samples)) or [no_samples(*asked)]
        return {name: _interleaved(torch.cat([batch[name] for batch in batches])) for name in sorted(names)}

    def _distance(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        with autocast_off(student):
            ours, theirs = (F.log_softmax(logits / self.temperature, 1) for logits in (student, teacher))
            kl = kl_divergence(ours, theirs) * self.temperature**2
            return self.distance_weight * self._mean(kl, batch)

    def _probe(self, batch: Batch) -> None:
        super()._probe(batch)
        with self._explaining("teacher", self.teacher_inputs, batch):
            teacher = self.predict_teacher(batch)
        self._task.check(teacher, batch["target"], model=self._described("teacher"), data="data")
        if batch["target"].is_floating_point():
            raise UserError(f"FeatureMask compares logits of classes, which {type(self._task).__name__} has not")

    def _evaluate(self, batch: Batch, stage: str) -> dict[str, Any]:
        teacher, student = self.predict_teacher(batch), self.predict(batch)
        self._score(student, batch, stage)
        return self.step_output(teacher, student, batch)

    def step_output(self, teacher: Tensor, student: Tensor, batch: Batch) -> dict[str, Any]:
        """What a step returns for the callbacks."""
        return {
            "prediction": student.detach(),
            "teacher_prediction": teacher.detach(),
            "inputs": self._inputs(self.inputs, batch),
            "teacher_inputs": self._inputs(self.teacher_inputs, batch),
            "ignore_index": self._task.ignore_index,
        }


def _split(batch: Batch, rows: int) -> list[Batch]:
    """The batch in parts of so many samples."""
    count = len(batch["target"])
    return [{name: values[start : start + rows] for name, values in batch.items()} for start in range(0, count, rows)]


def _interleaved(own: Tensor) -> Tensor:
    """The rows of all processes in their order: each has every n-th of them."""
    if world_size() == 1:
        return own
    rank = torch.full((len(own),), torch.distributed.get_rank(), device=own.device)
    place = gather(torch.arange(len(own), device=own.device) * world_size() + rank)
    return gather(own)[place.argsort()]
