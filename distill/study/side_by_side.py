"""Copies of one module that train side by side, each as it would train alone."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn, optim
from torch.func import functional_call, stack_module_state
from torch.utils.data import DataLoader, RandomSampler
from torchmetrics import Metric

from distill.base import DistillationModule
from distill.command.command_line import CLI
from distill.errors import UserError
from distill.internals.lightning import as_in_a_step, attach_data
from distill.methods import Combined
from distill.methods.parts.staged import StagedDistillation
from distill.outputs import Batch
from distill.supervised import Supervised
from distill.training.arguments import required
from distill.training.optimization import optimizer_and_schedule, parameter_groups

ELEMENTWISE = (
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.NAdam,
    optim.RAdam,
    optim.Adamax,
    optim.RMSprop,
    optim.Rprop,
    optim.Adagrad,
    optim.Adadelta,
    optim.ASGD,
)
"""Optimisers that update every number of a parameter on its own, so that stacked copies stay independent."""


HOOKS = (
    "training_step",
    "after_backward",
    *(f"on_{name}" for name in ("fit_start", "train_start", "train_epoch_start", "train_batch_start")),
    *(f"on_{name}" for name in ("train_batch_end", "train_epoch_end", "before_backward", "after_backward")),
    *(f"on_{name}" for name in ("train_end", "fit_end")),
    *("on_before_optimizer_step", "on_before_zero_grad", "optimizer_step", "configure_gradient_clipping"),
)
"""The methods by which a module can do more in a fit than compute its loss."""


class SideBySide(LightningModule):
    """Trains copies of a module on a batch of each, in one step for all of them.

    Their parameters are stacked along a first dim, and :func:`torch.vmap` runs the whole step of every copy on its own
    parameters, teacher and batch: what a method computes over a batch, such as relations of samples, it computes over
    the batch of the copy. The loss is the sum over the copies, so each has the gradients that it has alone. With small
    networks, twenty copies take little longer than one.

    Args:
        copies: Modules of one configuration that have been set up for a fit; :meth:`give_back` trains them.
        batches: For each copy the batch that it sees in every step.

    Raises:
        ValueError: The copies would not train as they do alone: they draw random numbers, keep state between steps,
            or do more in a step than compute a loss.
    """

    def __init__(self, copies: Sequence[Supervised], batches: Sequence[Batch]) -> None:
        super().__init__()
        self._steps = [_Step(copy) for copy in copies]
        _check_steps(copies[0])
        parameters, buffers = stack_module_state(self._steps)
        self._stacked_buffers: dict[str, Tensor] = dict(buffers)
        self._names = list(parameters)
        self.stacked = nn.ParameterList(nn.Parameter(stack, stack.requires_grad) for stack in parameters.values())
        tensors = [name for name, value in batches[0].items() if isinstance(value, Tensor)]
        self.batch = {name: torch.stack([batch[name] for batch in batches]) for name in tensors}
        self._first_strange = torch.full((len(copies),), -1)
        self._check_vmap()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the copies' losses; ``batch`` holds a batch of each, ``(S, N, *)``."""
        losses = self._losses(batch)
        # read when the fit ends: reading it in every step would wait for a GPU in every step
        first = self._first_strange.to(losses.device)
        self._first_strange = torch.where((first < 0) & ~losses.detach().isfinite(), batch_idx, first)
        return losses.sum()

    @property
    def diverged(self) -> list[int | None]:
        """For each copy the first step in which its loss was not finite; its weights are useless from there on."""
        return [None if step < 0 else step for step in self._first_strange.tolist()]

    def configure_optimizers(self) -> Any:
        """The optimiser and the schedule of the first copy, over the stacked parameters.

        Raises:
            ValueError: They would mix the copies.
        """
        first = self._steps[0]
        first.copy.trainer = self.trainer
        names = {id(parameter): name for name, parameter in first.named_parameters()}
        stacked = dict(zip(self._names, self.stacked, strict=True))
        groups = [
            {**group, "params": [stacked[names[id(parameter)]] for parameter in group["params"]]}
            for group in parameter_groups(first.copy)
        ]
        optimizer_of = required(first.copy.optimizer, "optimizer", first.copy)
        chosen = optimizer_and_schedule(groups, optimizer_of, first.copy.lr_scheduler, self.trainer)
        optimizer = chosen["optimizer"] if isinstance(chosen, dict) else chosen
        if type(optimizer) not in ELEMENTWISE:
            known = ", ".join(kind.__name__ for kind in ELEMENTWISE)
            raise UserError(
                f"{type(optimizer).__name__} may mix the seeds that train side by side; {known} do not: choose one of "
                "them, or leave side_by_side out"
            )
        if isinstance(chosen, dict) and "monitor" in chosen["lr_scheduler"]:
            raise UserError(
                "a learning rate that waits for a plateau would be the same for all seeds that train side by side: "
                "choose another schedule, or leave side_by_side out"
            )
        return chosen

    @torch.no_grad()
    def give_back(self) -> None:
        """Writes the parameters and buffers of every copy into it."""
        stacks = {**dict(zip(self._names, self.stacked, strict=True)), **self._stacked_buffers}
        for position, step in enumerate(self._steps):
            for name, tensor in [*step.named_parameters(), *step.named_buffers()]:
                tensor.copy_(stacks[name][position])

    def _losses(self, batch: Batch) -> Tensor:
        parameters = dict(zip(self._names, self.stacked, strict=True))
        losses: Tensor = torch.vmap(self._loss)(parameters, self._stacked_buffers, batch)
        return losses

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch) -> Tensor:
        loss: Tensor = functional_call(self._steps[0], (parameters, buffers), (batch,))
        return loss

    def _check_vmap(self) -> None:
        """Tries one step and restores the buffers and the random state."""
        kept = {name: buffer.clone() for name, buffer in self._stacked_buffers.items()}
        try:
            with isolate_rng(), torch.no_grad():
                self._losses(self.batch)
        except RuntimeError as error:
            copy = self._steps[0].copy
            raise UserError(
                f"{type(copy).__name__} with {type(copy.network).__name__} cannot train side by side, name its row "
                f"under alone: {str(error).splitlines()[0]}"
            ) from error
        self._stacked_buffers = kept


class _Step(nn.Module):
    """The loss of a module as a function of all its parameters, those of its teacher among them."""

    def __init__(self, copy: Supervised) -> None:
        super().__init__()
        self.copy = copy
        self.teacher = getattr(copy, "teacher", None)

    def forward(self, batch: Batch) -> Tensor:
        return self.copy.training_losses(batch)[0]


def fit_side_by_side(clis: Sequence[CLI]) -> list[int | None]:
    """Fits the models of command lines that differ only in their seeds, and leaves each as it would be alone.

    The fit's callbacks and loggers are left out, because they would see all copies at once.

    Args:
        clis: Command lines whose classes are made; see :func:`set_up`.

    Returns:
        For each run the first step in which its loss was NaN or infinite, where it would have ended alone; ``None``
        for a run whose loss stayed finite. A run that diverges does not affect the others.

    Raises:
        ValueError: The configuration asks for something that is not exact side by side.
    """
    first = clis[0]
    settings = dict(first.config_init["trainer"])
    _check_settings(first.trainer, settings["callbacks"])
    batches = [as_in_a_step(cli.model, _whole_split(cli.datamodule.train_dataloader())) for cli in clis]
    together = SideBySide([cli.model for cli in clis], batches)
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = first.trainer_class(**{**settings, **silent, "callbacks": None})
    steps = len(first.datamodule.train_dataloader())
    every_step: Any = [together.batch] * steps
    trainer.fit(together, DataLoader(every_step, batch_size=None))
    together.give_back()
    return together.diverged


def set_up(cli: CLI) -> None:
    """Brings a run to the start of its first step, with the random state that it has there when it trains alone."""
    _check_cache(cli.model)  # before the cache opens its files
    cli.datamodule.setup("fit")
    cli.trainer.state.fn = TrainerFn.FITTING
    attach_data(cli.trainer, cli.model, cli.datamodule)
    cli.model.trainer = cli.trainer
    for callback in cli.model.collaborators:
        callback.setup(cli.trainer, cli.model, "fit")
    cli.model.setup("fit")
    for hook in ("on_fit_start", "on_train_epoch_start"):
        for callback in cli.model.collaborators:
            getattr(callback, hook)(cli.trainer, cli.model)
    cli.model.on_fit_start()


def _whole_split(loader: DataLoader[Batch]) -> Batch:
    dataset = loader.dataset
    if loader.batch_size != len(cast(Sized, dataset)) or type(loader.sampler) is not RandomSampler:
        raise UserError(
            "seeds train side by side where a step sees the whole training split, but a batch has "
            f"{loader.batch_size} samples: set data.init_args.batch_size to null, or leave side_by_side out"
        )
    batch: Batch = next(iter(DataLoader(dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn)))
    return batch


def _check_settings(trainer: Trainer, callbacks: Callback | list[Callback] | None) -> None:
    if trainer.max_epochs != 1:
        raise UserError(
            f"seeds train side by side for one epoch, after which they are tested, but trainer.max_epochs is "
            f"{trainer.max_epochs}: set it to 1 and data.init_args.steps_per_epoch to the number of steps"
        )
    if trainer.gradient_clip_val and trainer.gradient_clip_algorithm != "value":
        raise UserError(
            "the norm of the gradient would be the same for all seeds that train side by side: set "
            "trainer.gradient_clip_algorithm to value, or leave side_by_side out"
        )
    if trainer.precision not in ("32-true", "bf16-mixed"):
        raise UserError(
            f"seeds train side by side with trainer.precision 32-true or bf16-mixed, got {trainer.precision}"
        )
    if trainer.world_size > 1:
        raise UserError(f"seeds train side by side on one device, but the trainer has {trainer.world_size}")
    for callback in callbacks if isinstance(callbacks, list) else filter(None, [callbacks]):
        if type(callback).__module__.partition(".")[0] != "callbacks":
            raise UserError(
                f"{type(callback).__name__} may change a fit, but callbacks do not run where seeds train side by side: "
                "leave it out, or leave side_by_side out"
            )


def _check_steps(module: Supervised) -> None:
    """Refuses what a method does outside of ``training_losses``, and state that stacking does not see."""
    for part in module.modules():
        if isinstance(part, Supervised) and not isinstance(part, Combined):  # its parts are checked
            # the one epoch has one stage only
            base = next(kind for kind in (StagedDistillation, DistillationModule, Supervised) if isinstance(part, kind))
            own = [hook for hook in HOOKS if getattr(type(part), hook, None) is not getattr(base, hook, None)]
            _refuse(part, own, "has its own")
        _check_cache(part)
        if not isinstance(part, Metric):
            kept = [name for name, value in vars(part).items() if isinstance(value, (Tensor, nn.Module))]
            _refuse(
                part,
                [name for name in kept if name not in ("teacher", "task")],
                "keeps, outside of its parameters and buffers,",
            )


def _check_cache(part: nn.Module) -> None:
    """Refuses a cache of the teacher's responses, which would serve one of the seeds."""
    _refuse(part, ["cache_teacher"] if getattr(part, "teacher_cache", None) is not None else [], "has a")


def _refuse(part: nn.Module, names: list[str], reason: str) -> None:
    if names:
        raise UserError(
            f"{type(part).__name__} cannot train side by side, because it {reason} {names[0]}: name its row under alone"
        )
