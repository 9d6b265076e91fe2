"""Checks before a fit or a test starts, so that a wrong configuration gives one sentence and not a late traceback.

The whole step runs on two real samples, and lazy layers find their channel counts. If the last batch of a fit has one
sample, the network is also tried on one sample.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from distill.batches import PRESENT, Batch, complete_rows, complete_samples, samples_in
from distill.batches import described as shape_of
from distill.errors import UserError, UserKeyError, UserTypeError
from distill.internals.lightning import as_in_a_step, loader_of
from distill.internals.torch import buffers_kept
from distill.outputs import NetworkOutput, shapes
from distill.tasks import Task
from distill.training.arguments import described
from distill.training.loaders import flat_loaders, loader_names
from distill.training.presence import complete_pairs
from distill.training.scores import StageScores

SMALL_BATCHES = 16
"""The number of batches among which one is looked for whose samples have all modalities."""

PREFIXES = {"validate": "val", "test": "test"}
"""The names of the stages in those of scores."""


class Checked(Protocol):
    """A module with a network and a check of a batch."""

    network: nn.Module | None
    inputs: tuple[str, ...]
    task: Task | None
    aux_weight: float

    def modules(self) -> Iterator[nn.Module]:
        """All modules in it."""

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that are its attributes."""

    def check_batch(self, batch: Batch) -> None:
        """Raises a one-sentence error if a small batch does not fit."""

    def forward_network(self, batch: Batch) -> NetworkOutput:
        """The network's output for a batch."""

    def at_targets(self, prediction: Tensor, batch: Batch) -> Tensor:
        """A prediction in the size of the target."""


@torch.compiler.set_stance("force_eager")  # a batch of two is not worth a compilation
def check_first_batch(module: Checked, trainer: Trainer, stage: str) -> None:
    """Runs two samples through ``module.check_batch`` in eval mode, and for a fit through the network in training mode.

    Only the sizes of lazy layers change.

    Raises:
        KeyError: The batch lacks a modality, or a network lacks a layer.
        ValueError: Predictions, labels and task do not fit each other.
    """
    assert isinstance(module, LightningModule)
    for part in module.modules():
        if isinstance(part, (Metric, StageScores)):
            part.reset()  # validate() creates states in inference mode, which a fit cannot update
    # Lightning moves the module after this, but collectives and some layers need its device now
    module.to(trainer.strategy.root_device)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    # isolate_rng restores the random state, so that this check does not change the fit
    with torch.no_grad(), isolate_rng():
        loaders = loader_of(trainer, stage)
        for number, loader in enumerate(flat_loaders(loaders, stage)):
            with of_loader(trainer, loaders, stage, number):
                batch = complete_batch(module, loader, stage, number)
                module.check_batch(batch)
        for part, mode in modes.items():
            part.training = mode
        if stage == "fit" and samples_in(batch) > 1:  # OneSampleCheck tries one sample
            check_training_mode(module, batch)


def complete_batch(module: Any, loader: Any, stage: str, number: int = 0) -> Batch:
    """A small batch as a step gets it: the first one in which no sample lacks a modality, or the largest of a few.

    Args:
        module: The module that gets it.
        loader: The loader.
        stage: ``fit``, ``validate`` or ``test``.
        number: The number of the loader, for the hooks of the transfer.

    Raises:
        ValueError: No sample has the modalities of the network.
    """
    batches = (as_in_a_step(module, batch, number) for batch in small_batches(loader, stage))
    seen: list[Batch] = []
    names = (*module.inputs, *getattr(module, "teacher_inputs", ()))
    for batch in batches:
        if samples_in(batch) and complete_rows(batch, names) is None:
            return cast(Batch, batch)
        seen.append(batch)
    largest = max(seen, key=lambda batch: (samples_in(complete_samples(batch, names)), samples_in(batch)))
    if not samples_in(largest):
        lacking = next((name for name in names if f"{name}{PRESENT}" in largest), module.inputs[0])
        raise UserError(
            f"no sample of the first {len(seen)} batches has the modality {lacking!r}: see "
            f"{lacking + PRESENT!r} of them"
        )
    return largest


def check_training_mode(module: Checked, batch: Batch) -> None:
    """Runs the trained networks in training mode, in which some have other outputs; leaves them unchanged.

    Raises:
        TypeError: A network returns no prediction.
        ValueError: A prediction or an auxiliary one does not fit the task.
    """
    network = module.network
    assert network is not None
    argument = "network" if getattr(module, "teacher", None) is None else "student"
    _check_in_training_mode(module, network, argument, module.inputs, module.forward_network, batch)
    teacher = dict(module.named_children()).get("teacher")  # a frozen teacher is no child
    if teacher is not None:
        joint: Any = module
        _check_in_training_mode(module, teacher, "teacher", joint.teacher_inputs, joint.forward_teacher, batch)


def _check_in_training_mode(
    module: Checked,
    network: nn.Module,
    argument: str,
    inputs: Sequence[str],
    forward: Callable[[Batch], NetworkOutput],
    batch: Batch,
) -> None:
    task = module.task
    modes = {part: part.training for part in network.modules()}
    if not network.training:  # as when the fit starts
        network.train()
    with buffers_kept(network), explained(network, argument, inputs, batch, "in training mode "):
        output = forward(batch)
    for part, mode in modes.items():
        part.training = mode
    _tell_what_learns(module, output, described(network, argument))
    if task is None or "target" not in batch:
        return
    model = f"{described(network, argument)} in training mode"
    task.check(output.prediction, batch["target"], model=model, data="data")
    for prediction in output.auxiliary.values():
        model = f"an auxiliary head of the {described(network, argument)}"
        task.check(module.at_targets(prediction, batch), batch["target"], model=model, data="data")


def _tell_what_learns(module: Checked, output: NetworkOutput, model: str) -> None:
    """Names the auxiliary predictions that learn from the labels, or warns that they do not."""
    if not output.auxiliary:
        return
    if not getattr(module, "hard_weight", 1):
        rank_zero_warn(f"hard_weight is 0, so the auxiliary heads of the {model} do not learn: build it without them")
    elif module.aux_weight:
        found = ", ".join(f"{name} {tuple(value.shape)}" for name, value in output.auxiliary.items())
        rank_zero_info(
            f"auxiliary predictions of the {model} learn from the labels with aux_weight {module.aux_weight:g}: {found}"
        )


def small_batches(loader: Any, stage: str) -> Iterator[Any]:
    """A few batches of two samples in the loader's format, read without its workers.

    Raises:
        ValueError: The data set is empty.
    """
    if isinstance(loader, DataLoader) and loader.batch_size is not None:
        loader = DataLoader(loader.dataset, batch_size=min(2, loader.batch_size), collate_fn=loader.collate_fn)
    empty = True
    for batch in islice(loader, SMALL_BATCHES):
        empty = False
        yield batch
    if empty:
        raise UserError(f"the data set to {TrainerFn(stage).value} on is empty")


@contextmanager
def of_loader(trainer: Trainer, loaders: Any, stage: str, number: int) -> Iterator[None]:
    """Puts the name of the loader before an error, if it is not the first of several.

    Raises:
        KeyError: As the error within.
        TypeError: As the error within.
        ValueError: As the error within.
    """
    try:
        yield
    except (UserError, UserKeyError, UserTypeError) as error:
        if number == 0:
            raise
        name = loader_names(trainer, PREFIXES[stage], loaders)[number]
        raise type(error)(f"of the loader {name!r}: {error}") from None


@contextmanager
def explained(network: object, argument: str, inputs: Sequence[str], batch: Batch, mode: str = "") -> Iterator[None]:
    """Replaces a network's error about its inputs by one sentence, and says whose output is of the wrong kind.

    Raises:
        TypeError: The output of the network or of a layer is of the wrong kind.
        ValueError: The network raised a RuntimeError or a TypeError.
    """
    try:
        yield
    except UserTypeError as error:
        raise UserTypeError(f"the {described(network, argument)} {mode}does not fit: {error}") from None
    except (RuntimeError, TypeError) as error:
        given = ", ".join(f"{name} {shape_of(batch[name])}" for name in inputs)
        reason = str(error).splitlines()[0]
        raise UserError(f"the {described(network, argument)} {mode}cannot take {given}: {reason}") from error


class Pair(Protocol):
    """A method with its two networks."""

    hard_weight: float
    teacher_inputs: tuple[str, ...]
    inputs: tuple[str, ...]
    task: Task | None

    @property
    def teacher(self) -> nn.Module | None:
        """The network to learn from."""

    @property
    def student(self) -> nn.Module | None:
        """The network that learns."""

    def forward_teacher(self, batch: Batch) -> NetworkOutput:
        """The teacher's output for a batch."""

    def forward_network(self, batch: Batch) -> NetworkOutput:
        """The student's output for a batch."""

    def distillation_terms(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss by name."""


def check_pair(method: Pair, batch: Batch) -> None:
    """Tries both networks and the method on a batch.

    Raises:
        KeyError: The batch lacks a modality or a target that the method needs.
        ValueError: A network cannot take its inputs, a prediction does not fit the task, or the method cannot compare
            the two outputs.
    """
    with explained(method.teacher, "teacher", method.teacher_inputs, batch):
        teacher = method.forward_teacher(batch)
    with explained(method.student, "student", method.inputs, batch):
        student = method.forward_network(batch)
    of_teacher, of_student = described(method.teacher, "teacher"), described(method.student, "student")
    if "target" in batch:
        assert method.task is not None
        compared = complete_pairs(teacher, student, batch, method.teacher_inputs)
        try:
            method.task.check(compared.teacher.prediction, compared.batch["target"], model=of_teacher, data="data")
        except UserError as error:
            if _classes(teacher) == _classes(student):
                raise
            hint = "if the teacher knows other classes, give teacher_classes: the student's class for each of them"
            raise UserError(f"{error}; {hint}") from None
        method.task.check(student.prediction, batch["target"], model=of_student, data="data")
    elif method.hard_weight:
        raise UserKeyError("the batch has no 'target': only a method with hard_weight=0 works without it")
    try:
        method.distillation_terms(teacher, student, batch)
    except KeyError as error:
        if error.args != ("target",):
            raise
        raise UserKeyError(f"the batch has no 'target', which {type(method).__name__} needs") from error
    except (RuntimeError, IndexError) as error:
        reason, line = str(error).splitlines()[0], _line_of_user(error)
        if line and _sizes(teacher) == _sizes(student):
            raise UserError(f"{type(method).__name__} fails in {line}: {reason}") from error
        raise UserError(
            f"{type(method).__name__} cannot compare the {of_teacher}, which has {shapes(teacher)}, with the "
            f"{of_student}, which has {shapes(student)}: {reason}" + (f" (in {line})" if line else "")
        ) from error


def _classes(output: NetworkOutput) -> torch.Size:
    return output.prediction.shape[1:2]


def _sizes(output: NetworkOutput) -> list[torch.Size]:
    """What two outputs have to have in common to be compared without an adaptor."""
    return [value.shape for value in (*output.features.values(), output.prediction)]


def _line_of_user(error: BaseException) -> str | None:
    """The last line of the user's own code that led to an error; None if all the code is installed."""
    installed = [Path(__file__).parents[1], *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib"))]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(Path(frame.filename).is_relative_to(folder) for folder in installed):
            return f"{frame.name}, line {frame.lineno} of {Path(frame.filename).name}"
    return None


class Preparation(Callback):
    """Calls ``prepare`` of its module; the other callbacks of the trainer then see a module that is complete."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Calls ``prepare`` after the data have been set up."""
        module: Any = pl_module
        if self in getattr(module, "collaborators", ()):  # Lightning leaves the callback with its trainer
            module.prepare(stage)
