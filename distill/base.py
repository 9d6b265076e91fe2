"""What all methods share: a student beside its frozen teacher. Also the place to import both base modules from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from distill.checkpoint import check_class_names, load_network, looks_untrained
from distill.distributed import SynchronizedBuffers
from distill.errors import UserError, UserKeyError
from distill.outputs import Batch, NetworkOutput, autocast_off, full_precision, network_output, shapes
from distill.supervised import Supervised
from distill.taps import FeatureTaps
from distill.tasks import Task
from distill.teacher.cache import TeacherCache
from distill.teacher.frozen import FrozenTeacher, Precision
from distill.training.compilation import compile_in_place
from distill.weighting import SampleWeighting

__all__ = ["Batch", "DistillationModule", "NetworkOutput", "Supervised"]


class DistillationModule(Supervised, ABC):
    """Trains a student beside a frozen teacher that sees another modality of the same samples.

    A method is a subclass with its own ``distillation_step``. The loss is ``hard_weight`` times the task's hard loss
    plus all terms of that step. ``self(*inputs)`` is the student alone. Steps return ``prediction`` (the student's),
    ``teacher_prediction``, ``features`` and ``teacher_features`` of the tapped layers, ``inputs``, ``teacher_inputs``
    and ``ignore_index`` for the callbacks, and ``loss`` in training.

    The teacher stays out of everything but the forward pass: always in eval mode, without gradients, in no checkpoint,
    unknown to the optimiser and to DDP.

    Args:
        teacher: The network to learn from; see ``network`` of :class:`Supervised`.
        student: The network to train and deploy.
        task: The hard loss and the metrics.
        teacher_inputs: The names of the modalities that the teacher sees.
        student_inputs: The names of the modalities that the student sees.
        teacher_layers: Layers of the teacher whose features ``distillation_step`` gets, by module name.
        student_layers: The same for the student.
        teacher_checkpoint: Weights for the teacher: a checkpoint of :class:`Supervised` or of any method (then its
            student), a plain ``state_dict`` file, or ``.safetensors``.
        hard_weight: The weight of the hard loss; with 0 no labels are used in training, and
            methods that compare predictions alone (such as KD) take batches without ``target``.
        optimizer: Given the trained parameters, makes the optimiser.
        lr_scheduler: Given the optimiser, makes the schedule; stepped each epoch, cyclic ones each step.
        cache_teacher: A folder to keep the teacher's responses to the training samples in, so that it runs once per
            sample; see :class:`~distill.teacher.cache.TeacherCache`. Only where what the teacher sees is the same in
            every epoch.
        teacher_precision: The type of the teacher's weights and inputs, ``bf16`` or ``fp16``; by default that of the
            fit. What methods get of it is float32.
        compile: Compiles teacher and student, each by itself, in place: ``true`` by torch's default backend, or the
            name of another.

    ``teacher``, ``student``, ``task`` and ``optimizer`` may be left out only where a method is a part of
    :class:`~distill.methods.Combined`, which has its own.
    """

    teacher: nn.Module | None

    def __init__(
        self,
        teacher: nn.Module | None = None,
        student: nn.Module | None = None,
        task: Task | None = None,
        teacher_inputs: Sequence[str] = (),
        student_inputs: Sequence[str] = (),
        teacher_layers: Sequence[str] = (),
        student_layers: Sequence[str] = (),
        teacher_checkpoint: str | Path | None = None,
        hard_weight: float = 1.0,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        cache_teacher: str | Path | None = None,
        teacher_precision: Precision | None = None,
        compile: bool | str = False,  # noqa: A002
    ) -> None:
        super().__init__(student, task, student_inputs, optimizer, lr_scheduler)
        if hard_weight < 0:
            raise UserError(f"hard_weight must be 0 or more, got {hard_weight}")
        self.teacher_inputs = tuple(teacher_inputs)
        self.teacher_layers = tuple(teacher_layers)
        self.student_layers = tuple(student_layers)
        self.teacher_checkpoint = teacher_checkpoint
        self._teacher_classes: Sequence[str] = ()
        self.hard_weight = hard_weight
        self._teacher_cache = None if cache_teacher is None else TeacherCache(cache_teacher)
        # kept out of the registered modules: so it is in no checkpoint, optimiser, train() or DDP broadcast
        self.__dict__["teacher"] = teacher
        if teacher is not None:
            self._untrained_teacher = teacher_checkpoint is None and looks_untrained(teacher)
            self._load_teacher(teacher)
            self._frozen_teacher = FrozenTeacher(teacher, self.teacher_layers, teacher_precision)
        if student is not None:
            self._student_taps = FeatureTaps(student, self.student_layers)
        compile_in_place([network for network in (teacher, student) if network is not None], compile)

    @abstractmethod
    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms of the distillation loss by name, weighted, in float32.

        A pure function of its arguments and of the module's own parameters: it logs nothing and moves nothing.

        Args:
            teacher: The teacher's prediction and features, without gradient.
            student: The student's.
            batch: The batch that both saw a part of.

        Returns:
            Each term either as one value a position, ``(N,)`` or ``(N, *spatial)``, which the base class averages
            over the positions that count of all processes together, or as a scalar. A scalar must be a mean over
            samples, or be computed from what :func:`distill.distributed.gather` returns: then two processes with
            half the batch each agree with one that has it whole.
        """

    def after_backward(self) -> None:
        """Keeps what a method's memory takes from the present step; called after each backward pass."""

    def check_fit(self) -> None:
        """Raises where the trainer cannot fit the method; called before a fit, of a combination's parts as well."""

    @property
    def current_hard_weight(self) -> float:
        """The weight of the hard loss in this epoch; ``hard_weight`` unless a method changes it."""
        return self.hard_weight

    def on_after_backward(self) -> None:
        """As in :class:`Supervised`; then lets the method remember the step, before any callback can save it."""
        super().on_after_backward()
        self.after_backward()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "teacher":
            raise AttributeError("the teacher is an argument of the constructor, which freezes it")
        super().__setattr__(name, value)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """The name is DDP's, which would send these buffers from its first process to all others in every step."""
        kept = ((name, part) for name, part in self.named_modules() if isinstance(part, SynchronizedBuffers))
        return [name for prefix, part in kept for name, _ in part.named_buffers(prefix)]

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
        """The target of positions to ignore, as the task has it; 255 without a task."""
        return getattr(self.task, "ignore_index", 255)

    def configure_callbacks(self) -> list[Callback]:
        """As in :class:`Supervised`; the cache of the teacher's responses hears of a fit and its epochs as well."""
        return super().configure_callbacks() + ([] if self._teacher_cache is None else [self._teacher_cache])

    # the public hooks around the transfer would make Lightning warn every user of a data module
    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        moved = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        if self._teacher_cache is not None:
            self._teacher_cache.note_transfer(batch, moved)
        return moved

    def training_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
        """The hard loss and the distillation terms of a batch; see :meth:`Supervised.training_losses`."""
        teacher, student = self.forward_both(batch)
        terms = self.distillation_terms(teacher, student, batch)
        loss = torch.stack(list(terms.values())).sum()
        if self.current_hard_weight:
            terms["hard"] = self.hard_loss(student.prediction, batch)
            loss = loss + self.current_hard_weight * terms["hard"]
        return loss, terms, self.step_output(teacher, student, batch)

    def setup(self, stage: str) -> None:
        """As in :class:`Supervised`, through the teacher and ``distillation_step`` as well."""
        for weighting in self._weightings():
            weighting.ignore_index = self.ignore_index
        if stage == "fit":
            self._require("teacher")
            if self._untrained_teacher:
                rank_zero_warn(
                    f"the {self._described('teacher')} has random weights: give teacher_checkpoint, or call .eval() "
                    "on a teacher whose weights you loaded yourself"
                )
            check_class_names(self._teacher_classes, self._class_names(), model="teacher_checkpoint")
            for part in self.modules():
                if isinstance(part, DistillationModule):
                    part.check_fit()
        super().setup(stage)
        if stage == "fit":
            for weighting in self._weightings():
                weighting.begin_fit(self)

    def on_train_start(self) -> None:
        """As in :class:`Supervised`; tells the weightings of samples where they are, also in the middle of an epoch."""
        super().on_train_start()
        self._tell_weightings()

    def on_train_epoch_start(self) -> None:
        """Tells the weightings of samples where in the fit they are."""
        self._tell_weightings()

    @torch.no_grad()
    def teacher_prediction(self, batch: Batch) -> Tensor:
        """What the teacher says of a batch, as ``distillation_step`` sees it."""
        return self.forward_teacher_at_targets(batch).prediction

    def reference_student(self, checkpoint: str | Path) -> Supervised:
        """A frozen copy of the student with other weights, in eval mode.

        Args:
            checkpoint: As ``teacher_checkpoint``.
        """
        network = copy.deepcopy(self._require("network"))
        load_network(network, checkpoint)
        return Supervised(network, copy.deepcopy(self.task), self.inputs).eval().requires_grad_(False)

    def _tell_weightings(self) -> None:
        for weighting in self._weightings():
            weighting.begin_epoch(self.current_epoch, self.trainer.max_epochs or -1)

    def _weightings(self) -> list[SampleWeighting]:
        return [part for part in self.modules() if isinstance(part, SampleWeighting)]

    @torch.compiler.set_stance("force_eager")  # nothing is compiled for a batch of two
    def _probe(self, batch: Batch) -> None:
        fitting = self._trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if self.teacher is None or (not fitting and self._teacher_sees_nothing(batch)):
            return super()._probe(batch)
        with self._explaining("teacher", self.teacher_inputs, batch):
            teacher = self.forward_teacher_at_targets(batch)
        with self._explaining("student", self.inputs, batch):
            student = self.forward_student(batch)
        labelled = "target" in batch
        if self.hard_weight and not labelled:
            raise UserKeyError("the batch has no 'target', which only a method with hard_weight=0 can do without")
        for model, output in {"teacher": teacher, "student": student}.items() if labelled else ():
            self._task.check(output.prediction, batch["target"], model=self._described(model), data="data")
        try:
            self.distillation_terms(teacher, student, batch)
        except (RuntimeError, IndexError) as error:
            raise UserError(
                f"{type(self).__name__} cannot compare the {self._described('teacher')}, which has "
                f"{shapes(teacher)}, with the {self._described('student')}, which has {shapes(student)}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return None

    def _teacher_sees_nothing(self, batch: Batch) -> bool:
        """Whether a batch to evaluate on lacks what the teacher sees; the student can still be scored."""
        lacking = [name for name in self.teacher_inputs if name not in batch]
        if lacking:
            rank_zero_warn(f"without the modality {lacking[0]!r} the student is scored alone, its teacher does not run")
        return bool(lacking)

    def forward_both(self, batch: Batch) -> tuple[NetworkOutput, NetworkOutput]:
        """What teacher and student make of a batch, in the size of its target."""
        return self.forward_teacher_at_targets(batch), self.forward_student(batch)

    def forward_teacher(self, batch: Batch) -> NetworkOutput:
        """What the teacher itself makes of its part of a batch, in its own size."""
        return self._frozen_teacher(*self._inputs(self.teacher_inputs, batch))

    def forward_teacher_at_targets(self, batch: Batch) -> NetworkOutput:
        """What the teacher makes of a batch, in the size of its target; in training from its cache, if it has one."""
        training = self._trainer is not None and self.trainer.training
        cache = self._teacher_cache if training else None
        output = self.forward_teacher(batch) if cache is None else cache.output(batch, self.forward_teacher)
        return output._replace(prediction=self._at_targets(output.prediction, batch))

    def forward_student(self, batch: Batch) -> NetworkOutput:
        """What the student makes of a batch, in the size of its target."""
        output = network_output(self._student_taps, self._inputs(self.inputs, batch))
        return output._replace(prediction=self._at_targets(output.prediction, batch))

    def distillation_terms(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms of ``distillation_step`` by name, in float32, each averaged to a scalar."""
        with autocast_off(student.prediction):
            terms = self.distillation_step(teacher, student, batch)
            if not terms:
                raise UserError(f"{type(self).__name__}.distillation_step returns no term to train on")
            return {name: self._mean(full_precision(values), batch) for name, values in terms.items()}

    def _evaluate(self, batch: Batch, stage: str) -> dict[str, Any]:
        if self.teacher is None or self._teacher_sees_nothing(batch):
            return super()._evaluate(batch, stage)
        teacher, student = self.forward_both(batch)
        self._score(student.prediction, batch, stage)
        return self.step_output(teacher, student, batch)

    def step_output(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Any]:
        """What a step returns for the callbacks."""
        return {
            "prediction": student.prediction.detach(),
            "teacher_prediction": teacher.prediction,
            "features": {layer: feature.detach() for layer, feature in student.features.items()},
            "teacher_features": teacher.features,
            "inputs": self._inputs(self.inputs, batch),
            "teacher_inputs": self._inputs(self.teacher_inputs, batch),
            "ignore_index": self.ignore_index,
        }

    def _load_teacher(self, teacher: nn.Module) -> None:
        own = {id(parameter) for parameter in self.parameters()}
        if any(id(parameter) in own for parameter in teacher.parameters()):
            raise UserError("teacher and student share parameters: give the student a network of its own")
        if self.teacher_checkpoint is not None:
            try:
                self._teacher_classes = load_network(teacher, self.teacher_checkpoint)
            except ValueError as error:
                raise UserError(f"the teacher_checkpoint {error}") from None

    def _apply(self, fn: Any, recurse: bool = True) -> DistillationModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.teacher is not None:
            self._frozen_teacher.follow(fn)
        return self
