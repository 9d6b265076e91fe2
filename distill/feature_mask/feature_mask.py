"""NTDH, Algorithm 1: trains two networks together, then measures how each input feature changes their divergence."""

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
from distill.batches import Batch, chosen_samples, complete_samples, modalities
from distill.checks import check_at_least, check_finite, check_option, check_positive
from distill.distributed import gather, world_size
from distill.errors import UserError
from distill.feature_mask.salience import Salience, count_features, feature_divergence, feature_shape
from distill.losses.parts.logits import kl_divergence, softened
from distill.outputs import NetworkOutput, autocast_off, network_output, step_output
from distill.supervised import Supervised
from distill.tasks import Classification, MultiLabelClassification, Task
from distill.training.arguments import described, required
from distill.training.auxiliary import label_losses
from distill.training.first_batch import explained
from distill.training.means import counted_mean
from distill.training.training_set import empty_batch, training_set

FEATURES_AT_ONCE = 64
"""The number of features between two steps of the progress bar."""


class FeatureMask(Supervised):
    r"""The feature mask of the non-target divergence hypothesis: joint training, then the salience of each feature.

    Chen et al., "Non-target divergence hypothesis: toward understanding domain gaps in cross-modal knowledge
    distillation", 2024, Algorithm 1. The two networks are trained together,

    .. math::
        L = w \, T^2 \, \mathrm{KL}(f_a(x^a) \,\|\, f_b(x^b)) + \mathrm{CE}(y, f_a(x^a)) + \mathrm{CE}(y, f_b(x^b))

    (eq. 26). No term is detached: the first one has gradients for both networks. At the end of the fit,
    ``salience.npz`` in the run's folder holds, for each modality of the teacher under its name, the salience of its
    features in [0, 1]. The salience of a feature is the NCJSD of the two networks with that feature changed
    (:func:`~distill.feature_mask.salience.feature_divergence`), divided by the largest such NCJSD. A feature is a value
    of a vector ``(N, D)``, or a pixel with all its channels. :class:`~datamodules.MaskedFeatures` makes the mask from
    the file, for any method; :class:`~callbacks.SalienceMap` draws it.

    With the method as printed, permuting a feature on which both networks rely raises their divergence most. So the
    highest salience marks the features that the modalities *share*. ``salience="solo"`` measures the divergence if the
    teacher sees this feature only; then the highest salience marks the features that only the teacher has.
    ``docs/ntdh_masks.md`` compares them.

    Args:
        teacher: f_a, the network of the teacher's modality. It is trained, unlike the teachers of all other methods.
        student: f_b, the network of the student's modality. ``self(*inputs)``, the scores and ``best.ckpt`` are those
            of the student.
        task: The hard loss and the metrics; its predictions must be logits of classes.
        teacher_inputs: The names of the modalities that the teacher sees; the salience is that of their features.
        student_inputs: The names of the modalities that the student sees.
        optimizer: Makes the optimiser from the trained parameters.
        lr_scheduler: Makes the schedule from the optimiser.
        distance_weight: w, the weight of the distance in eq. 26; 1 as printed.
        temperature: T; the logits of both networks are divided by it in the distance.
        salience: The change of a feature: ``"permute"`` as printed, ``"zero"``, or ``"solo"``.
        repeats: M, the number of permutations of each feature; the paper does not state it.
        fill: The value that replaces removed features.
        max_samples: The number of samples to use, evenly spread over the training set; all with ``None``.
        rows: The approximate number of samples in one forward pass of the teacher; each feature has its own copy of
            the samples.
        aux_weight: The weight of each auxiliary prediction of both networks; see
            :class:`~distill.supervised.Supervised`.
        batch_names: The names of the items of a batch; see :class:`~distill.supervised.Supervised`.

    Raises:
        ValueError: An argument is out of its range; from ``setup``, the predictions are not logits of classes.
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
        aux_weight: float = 0.4,
        batch_names: Sequence[str] = (),
    ) -> None:
        super().__init__(student, task, student_inputs, optimizer, lr_scheduler, aux_weight, batch_names)
        check_option("salience", salience, get_args(Salience))
        check_at_least(0, distance_weight=distance_weight)
        check_finite(fill=fill)
        check_at_least(1, repeats=repeats, max_samples=max_samples, rows=rows)
        check_positive(temperature=temperature)
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
        return self.forward_teacher(batch).prediction

    def forward_teacher(self, batch: Batch) -> NetworkOutput:
        """The teacher's output for a batch, with the logits in the size of the target."""
        output = network_output(required(self.teacher, "teacher", self)(*modalities(batch, self.teacher_inputs)))
        return output._replace(prediction=self.at_targets(output.prediction, batch))

    def after_transfer(self, batch: Any, moved: Any) -> Batch:
        """As in :class:`~distill.supervised.Supervised`, also without samples that lack a modality of the teacher."""
        return complete_samples(super().after_transfer(batch, moved), self.teacher_inputs)

    def training_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
        """The loss of eq. 26, its terms by name, and the step's outputs for the callbacks."""
        teacher, student = self.forward_teacher(batch), self.forward_network(batch)
        distance = self._distance(student.prediction, teacher.prediction, batch)
        of_teacher, teacher_terms = label_losses(self, teacher, batch)
        of_student, terms = label_losses(self, student, batch)
        terms |= {"distance": distance} | {f"teacher_{name}": value for name, value in teacher_terms.items()}
        outputs = self._step_output(teacher.prediction, student.prediction, batch)
        return distance + of_teacher + of_student, terms, outputs

    def on_train_end(self) -> None:
        """Writes the salience of the teacher's features."""
        folder = self.trainer.log_dir  # all processes must read it
        salience = self._salience()
        if self.trainer.is_global_zero and folder is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            with atomic_write(Path(folder) / "salience.npz") as draft:
                arrays: dict[str, Any] = {name: values.cpu().numpy() for name, values in salience.items()}
                np.savez(draft, **arrays)

    @torch.no_grad()
    def _salience(self) -> dict[str, Tensor]:
        """The salience of each feature, by modality, in the shape of the modality's features."""
        required(self.teacher, "teacher", self).eval()
        required(self.network, "student", self).eval()
        batch = self._samples()
        inputs = dict(zip(self.teacher_inputs, modalities(batch, self.teacher_inputs), strict=True))
        features = range(self.trainer.global_rank, count_features(inputs), self.trainer.world_size)
        shown = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        student = torch.cat([self.predict(part) for part in _split(batch, self.rows)])
        # the seed of the first process; gathered before the loop, as the processes may have loops of different lengths
        seed = int(gather(torch.tensor([self._seed], device=self.device))[0])
        none = torch.empty(0, dtype=torch.float64, device=self.device)  # if there are more processes than features
        divergence = [
            feature_divergence(
                # only the size of the target is needed, because the teacher's maps are resized to it
                lambda changed: self.predict_teacher({**changed, "target": batch["target"][:1]}),
                inputs,
                student,
                batch["target"],
                features[start : start + FEATURES_AT_ONCE],
                salience=self.salience,
                repeats=self.repeats,
                fill=self.fill,
                seed=seed,
                rows=self.rows,
                ignore_index=self.known_task.ignore_index,
            )
            for start in track(
                range(0, len(features), FEATURES_AT_ONCE), "salience of the features", disable=not shown, transient=True
            )
        ]
        salience = _interleaved(torch.cat([none, *divergence]).float())
        salience = salience / salience.max().clamp(min=torch.finfo(salience.dtype).tiny)
        parts = salience.split([feature_shape(values).numel() for values in inputs.values()])
        return {
            name: part.view(feature_shape(values)) for (name, values), part in zip(inputs.items(), parts, strict=True)
        }

    def _samples(self) -> Batch:
        """The samples whose features are changed, the same in all processes."""
        names = {*self.teacher_inputs, *self.inputs, "target"}
        source = self, "reading the training set"
        batches = list(training_set(*source, self.max_samples)) or [empty_batch(*source)]
        return {name: _interleaved(torch.cat([batch[name] for batch in batches])) for name in sorted(names)}

    def _distance(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        with autocast_off(student):
            hot = (softened(logits, self.temperature) for logits in (student, teacher))
            log_student, log_teacher = (F.log_softmax(logits, 1) for logits in hot)
            kl = kl_divergence(log_student, log_teacher).to(student.dtype) * self.temperature**2
            return self.distance_weight * counted_mean(kl, batch, self.known_task)

    def check_batch(self, batch: Batch) -> None:
        """As in :class:`~distill.supervised.Supervised`, but also checks the teacher, and that there are classes."""
        super().check_batch(batch)
        with explained(self.teacher, "teacher", self.teacher_inputs, batch):
            teacher = self.predict_teacher(batch)
        self.known_task.check(teacher, batch["target"], model=described(self.teacher, "teacher"), data="data")
        if isinstance(self.task, (Classification, MultiLabelClassification)) and batch["target"].ndim > 1:
            raise UserError("FeatureMask needs one class index for each sample, but a sample may have several classes")
        if batch["target"].is_floating_point():
            raise UserError(f"FeatureMask compares logits of classes, but {type(self.task).__name__} has no classes")

    def evaluate(self, batch: Batch) -> dict[str, Any]:
        """As in :class:`~distill.supervised.Supervised`, with the teacher's prediction."""
        return self._step_output(self.predict_teacher(batch), self.predict(batch), batch)

    def _step_output(self, teacher: Tensor, student: Tensor, batch: Batch) -> dict[str, Any]:
        outputs = NetworkOutput(teacher, {}), NetworkOutput(student, {})
        inputs = modalities(batch, self.teacher_inputs), modalities(batch, self.inputs)
        return step_output(*outputs, *inputs, self.known_task.ignore_index)


def _split(batch: Batch, rows: int) -> list[Batch]:
    """The batch in parts of at most ``rows`` samples."""
    count = len(batch["target"])
    return [chosen_samples(batch, range(start, min(start + rows, count))) for start in range(0, count, rows)]


def _interleaved(local: Tensor) -> Tensor:
    """The rows of all processes in their original order; with n processes, each process has every n-th row."""
    if world_size() == 1:
        return local
    position = torch.arange(len(local), device=local.device) * world_size() + torch.distributed.get_rank()
    return gather(local)[gather(position).argsort()]
