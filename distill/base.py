"""The base class of all methods: a student and its frozen teacher. Import both base classes from here."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from distill.batches import Batch, modalities, present, samples_in
from distill.checkpoint import Weights, load_network
from distill.checks import check_at_least
from distill.internals.lightning import attached
from distill.layouts import Layout
from distill.outputs import NetworkOutput, autocast_off, network_output, step_output
from distill.supervised import Supervised
from distill.taps import FeatureTaps
from distill.tasks import Task
from distill.teacher.cache import TeacherCache
from distill.teacher.class_map import ClassMap
from distill.teacher.frozen import FrozenTeacher, Precision, TeacherHolder, check_separate
from distill.training.arguments import required
from distill.training.auxiliary import label_losses
from distill.training.compilation import compile_in_place
from distill.training.first_batch import check_pair
from distill.training.labels import known_class_names
from distill.training.means import counted_means
from distill.training.presence import complete_pairs, on_complete_samples
from distill.weighting.schedule import WeightingSchedule, begin_fit

__all__ = ["Batch", "DistillationModule", "NetworkOutput", "Supervised"]


class DistillationModule(TeacherHolder, Supervised, ABC):
    """Trains a student with the help of a frozen teacher that sees another modality of the same samples.

    A method is a subclass that implements ``distillation_step``. The loss is ``hard_weight`` times the task's hard loss
    plus all terms of that step. ``self(*inputs)`` is the student alone. Steps return ``prediction`` (the student's),
    ``teacher_prediction``, ``features`` and ``teacher_features`` of the tapped layers, ``inputs``, ``teacher_inputs``
    and ``ignore_index`` for the callbacks, and ``loss`` in training.

    A batch may tell by a mask ``<modality>_present`` which samples have a modality. Where the teacher lacks one, it
    does not see the sample, no term counts it, its rows of ``teacher_prediction`` and ``teacher_features`` are NaN, and
    the steps also return the mask ``present``, bool ``(N,)``, of the samples with a teacher's prediction. The hard loss
    and the scores count these samples. A sample that lacks a modality of the student counts nowhere.

    The teacher takes part in the forward pass only: it is always in eval mode and has no gradients, no checkpoint
    holds it, and the optimiser and DDP do not know it.

    Args:
        teacher: The network to learn from; see ``network`` of :class:`Supervised`.
        student: The network to train and deploy.
        task: The hard loss and the metrics.
        teacher_inputs: The names of the modalities that the teacher sees.
        student_inputs: The names of the modalities that the student sees.
        teacher_layers: Layers of the teacher whose features ``distillation_step`` gets, by module name.
        student_layers: The same for the student.
        teacher_checkpoint: Weights for the teacher: a checkpoint of :class:`Supervised` or of any method (then its
            student), or a file, folder or name of the Hub as others have them; see
            :func:`~distill.checkpoint.load_network` and :class:`~distill.checkpoint.Weights`.
        hard_weight: The weight of the hard loss. With 0, training uses no labels, and methods that compare
            predictions only (such as KD) accept batches without ``target``.
        optimizer: Makes the optimiser from the trained parameters.
        lr_scheduler: Makes the schedule from the optimiser; it steps each epoch, a cyclic one each step.
        cache_teacher: A folder that keeps the teacher's responses to the training samples, so that the teacher runs
            once per sample; see :class:`~distill.teacher.cache.TeacherCache`. The teacher's inputs must be the same
            in every epoch.
        teacher_precision: The type of the teacher's weights and inputs, ``bf16`` or ``fp16``; the precision of the fit
            by default. Methods get the teacher's outputs in float32.
        compile: Compiles teacher and student separately, in place: ``true`` for torch's default backend, or the name of
            another backend.
        teacher_layout: Where the teacher's layers have their channels, if the library cannot know it:
            ``channels_first``, ``channels_last`` or ``tokens``, or a dictionary of these by layer; see
            :class:`~distill.taps.FeatureTaps`.
        student_layout: The same for the student.
        aux_weight: The weight of each auxiliary prediction of the student in the hard loss; see :class:`Supervised`.
        teacher_classes: For a teacher with other classes than the student, or another order of them: the student's
            class for each class of the teacher, by index or by name, or ``null`` where the student has none. Several
            classes of the teacher may lead to one; see :class:`~distill.teacher.class_map.ClassMap`.
        batch_names: The names of the items of a batch, for a loader that gives tuples; see :class:`Supervised`.
        student_checkpoint: Weights from which the student starts, in one of the forms of ``teacher_checkpoint``.

    ``teacher``, ``student``, ``task`` and ``optimizer`` are optional only for a method that is a part of
    :class:`~distill.methods.Combined`: the combination has them.
    """

    start_option = "student_checkpoint"

    def __init__(
        self,
        teacher: nn.Module | None = None,
        student: nn.Module | None = None,
        task: Task | None = None,
        teacher_inputs: Sequence[str] = (),
        student_inputs: Sequence[str] = (),
        teacher_layers: Sequence[str] = (),
        student_layers: Sequence[str] = (),
        teacher_checkpoint: Weights | str | Path | None = None,
        hard_weight: float = 1.0,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        cache_teacher: str | Path | None = None,
        teacher_precision: Precision | None = None,
        compile: bool | str = False,  # noqa: A002
        teacher_layout: Layout | dict[str, Layout] | None = None,
        student_layout: Layout | dict[str, Layout] | None = None,
        aux_weight: float = 0.4,
        teacher_classes: list[int | str | None] | None = None,
        batch_names: Sequence[str] = (),
        student_checkpoint: Weights | str | Path | None = None,
    ) -> None:
        super().__init__(
            student, task, student_inputs, optimizer, lr_scheduler, aux_weight, batch_names, student_checkpoint
        )
        check_at_least(0, hard_weight=hard_weight)
        self.teacher_inputs = tuple(teacher_inputs)
        self.teacher_layers = tuple(teacher_layers)
        self.student_layers = tuple(student_layers)
        self.teacher_layout, self.student_layout = teacher_layout, student_layout
        self.hard_weight = hard_weight
        self.class_map = None if teacher_classes is None else ClassMap(teacher_classes)
        self.network_options: dict[str, object] = {
            "teacher_checkpoint": teacher_checkpoint,
            "student_checkpoint": student_checkpoint,
            "teacher_precision": teacher_precision,
            "compile": compile,
        }
        if teacher is not None:
            check_separate(teacher, self)
            self.frozen_teacher = FrozenTeacher(
                teacher, self.teacher_layers, teacher_precision, teacher_checkpoint, teacher_layout
            )
        if student is not None:
            self._student_taps = FeatureTaps(student, self.student_layers, student_layout, option="student_layout")
        compile_in_place([network for network in (teacher, student) if network is not None], compile)
        self.collaborators.insert(0, WeightingSchedule())
        self.teacher_cache = None if cache_teacher is None else TeacherCache(cache_teacher)
        if self.teacher_cache is not None:
            self.collaborators.append(self.teacher_cache)

    @abstractmethod
    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms of the distillation loss by name, weighted, in float32.

        A pure function of its arguments and of the module's parameters: it logs nothing and moves no tensor. A method
        with a memory passes what it will remember to that memory, which changes in :meth:`after_backward` only.

        Args:
            teacher: The teacher's prediction and features, without gradient.
            student: The student's prediction and features.
            batch: The whole batch: each network saw a part of it.

        Returns:
            Each term, either as one value per position, ``(N,)`` or ``(N, *spatial)``, or as a scalar. The base class
            averages the values over the counted positions of all processes. A scalar must be a mean over samples, or
            be computed from the result of :func:`distill.distributed.gather`: then two processes with half the batch
            each give the same loss as one process with the whole batch. A mean over the samples of one process is exact
            only if all processes have as many pairs, which is not so where samples lack a modality: return one value
            for each of these samples.
        """

    def after_backward(self) -> None:
        """Stores what the method remembers of this step, such as a memory bank; called after each backward pass."""

    def check_fit(self) -> None:
        """Raises an error if the trainer cannot fit the method; called before a fit."""

    @property
    def current_hard_weight(self) -> float:
        """The weight of the hard loss in this epoch; ``hard_weight`` unless a method overrides it."""
        return self.hard_weight

    @property
    def student(self) -> nn.Module | None:
        """The network that is trained and deployed."""
        return self.network

    @property
    def student_inputs(self) -> tuple[str, ...]:
        """The names of the modalities that the student sees."""
        return self.inputs

    @property
    def ignore_index(self) -> int:
        """The target value of ignored positions, from the task; 255 without a task."""
        return getattr(self.task, "ignore_index", 255)

    def forward_teacher(self, batch: Batch) -> NetworkOutput:
        """The teacher's output for a batch, in the student's classes and in the size of the target.

        In training it is from the cache, if there is one. It is NaN for samples that lack a modality of the teacher.
        """
        cache, run = self.teacher_cache, self.run_teacher
        cached = run if cache is None or not samples_in(batch) else lambda samples: cache.output(samples, run)
        output = on_complete_samples(cached, run, batch, self.teacher_inputs)
        if self.class_map is not None:
            output = output._replace(prediction=self.class_map(output.prediction, self.known_task))
        return output._replace(prediction=self.at_targets(output.prediction, batch))

    def run_teacher(self, batch: Batch) -> NetworkOutput:
        """The output of the teacher network for a batch, in the network's size and never from the cache."""
        run = required(self.frozen_teacher, "teacher", self)
        return self.stand_in.output(run, run.network, batch, self.teacher_inputs)

    def forward_network(self, batch: Batch) -> NetworkOutput:
        """As in :class:`Supervised`, with the student's features."""
        student = required(self.student, "student", self)
        output = self.stand_in.output(
            lambda *inputs: network_output(*self._student_taps(*inputs)), student, batch, self.inputs
        )
        return output._replace(prediction=self.at_targets(output.prediction, batch))

    def forward_both(self, batch: Batch) -> tuple[NetworkOutput, NetworkOutput]:
        """The outputs of teacher and student for a batch, in the size of the target."""
        return self.forward_teacher(batch), self.forward_network(batch)

    def distillation_terms(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms of ``distillation_step`` by name, each a float32 scalar.

        Samples that lack a modality of the teacher do not count.
        """
        compared = complete_pairs(teacher, student, batch, self.teacher_inputs)
        with autocast_off(student.prediction):
            terms = self.distillation_step(*compared)
            return counted_means(terms, compared.batch, self.task, type(self).__name__)

    def training_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
        """The hard loss and the distillation terms of a batch; see :meth:`Supervised.training_losses`."""
        teacher, student = self.forward_both(batch)
        terms = self.distillation_terms(teacher, student, batch)
        loss = torch.stack(list(terms.values())).sum()
        if self.current_hard_weight:
            label_loss, label_terms = label_losses(self, student, batch)
            terms |= label_terms
            loss = loss + self.current_hard_weight * label_loss
        return loss, terms, self._step_output(teacher, student, batch)

    def evaluate(self, batch: Batch) -> dict[str, Any]:
        """As in :class:`Supervised`, with the teacher if the batch has its modalities."""
        if self.runs_alone(batch):
            return super().evaluate(batch)
        return self._step_output(*self.forward_both(batch), batch)

    def check_batch(self, batch: Batch) -> None:
        """As in :class:`Supervised`, but also checks the teacher and ``distillation_step``."""
        trainer = attached(self)
        if self.teacher is None or (trainer is not None and not trainer.training and self.runs_alone(batch)):
            super().check_batch(batch)
        else:
            check_pair(self, batch)

    def prepare(self, stage: str) -> None:
        """As in :class:`Supervised`, but also checks that a fit has a trained teacher."""
        if stage == "fit":
            names = () if self.class_map is not None else known_class_names(self.trainer, self.task)
            required(self.frozen_teacher, "teacher", self).check_trained(names)
            self.check_fit()
        super().prepare(stage)
        if stage == "fit":  # before a precision plugin changes the type of the networks
            begin_fit(self)

    def on_after_backward(self) -> None:
        """Calls ``after_backward``, before any callback can save a checkpoint."""
        self.after_backward()

    def note_transfer(self, batch: Any, moved: Batch) -> None:
        """Gives the cache the copy of the samples' positions that is still on the CPU."""
        if self.teacher_cache is not None and isinstance(batch, dict):
            self.teacher_cache.note_transfer(batch, moved)

    @torch.no_grad()
    def teacher_prediction(self, batch: Batch) -> Tensor:
        """The teacher's prediction for a batch, as ``distillation_step`` gets it."""
        return self.forward_teacher(batch).prediction

    def reference_student(self, checkpoint: str | Path | Weights) -> Supervised:
        """A frozen copy of the student in eval mode, with the weights of a checkpoint.

        Args:
            checkpoint: The weights, in one of the formats of ``teacher_checkpoint``.
        """
        network = copy.deepcopy(required(self.network, "student", self))
        load_network(network, checkpoint)
        return Supervised(network, copy.deepcopy(self.task), self.inputs).eval().requires_grad_(False)

    def runs_alone(self, batch: Batch) -> bool:
        """Whether the student is scored alone, because an evaluation batch lacks a modality of the teacher."""
        missing = [name for name in self.teacher_inputs if name not in batch]
        if self.teacher is not None and missing:
            rank_zero_warn(f"without the modality {missing[0]!r} the student is scored alone, its teacher does not run")
        return self.teacher is None or bool(missing)

    def _step_output(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Any]:
        inputs = modalities(batch, self.teacher_inputs), modalities(batch, self.inputs)
        return step_output(teacher, student, *inputs, self.ignore_index, present(batch, self.teacher_inputs))
