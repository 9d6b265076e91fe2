"""The losses of a fit: checks each for NaN and infinity, and logs the means of an epoch at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from distill.batches import Batch, chosen_samples, complete_rows, samples_in
from distill.distributed import all_gather_objects, rank_part
from distill.errors import UserError
from distill.training.gradients import GradientWatch, copied_to_cpu
from distill.training.means import LossSums, add_batch, gathered_means
from distill.training.named_samples import named_samples, not_finite_samples
from distill.training.teacher_fault import no_fault, teacher_fault


class TrainingLosses(Callback):
    """Stops a fit at the first loss or gradient that is not finite, and logs the mean losses of an epoch.

    They are logged as ``train/<name>``.

    It is a callback, so that a module that overrides a hook without ``super()`` still logs them. The module passes the
    losses of each step to :meth:`record`.
    """

    def __init__(self) -> None:
        self._watch = LossWatch()
        self._gradients = GradientWatch()
        self._sums: LossSums = {}

    @property
    def state_key(self) -> str:
        """The name in checkpoints: the class's earlier name, so that old checkpoints still load."""
        return "EpochLosses"

    def record(self, module: Any, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """Watches the losses of a step, shows the sum in the progress bar, and adds all losses to those of the epoch.

        Args:
            module: The module that logs the losses, with the names of its ``inputs``.
            loss: The loss of the step, a scalar.
            terms: The terms of that sum, by name.
            batch: The batch of the step.
        """
        of_teacher = getattr(module, "teacher_inputs", ())
        self._watch.watch(loss, terms, batch, inputs=[*module.inputs, *of_teacher])
        module.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=samples_in(batch))
        # a call of log() costs half a millisecond, and there may be many terms: the means are logged once per epoch
        add_batch(self._sums, {"loss": loss, **terms}, batch, of_teacher)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what a failed fit left; a checkpoint is loaded after this."""
        self._watch, self._gradients, self._sums = LossWatch(), GradientWatch(), {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises a ValueError rather than score the weights after a step whose gradients were not finite."""
        self._gradients.check()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises a ValueError if the loss or a gradient is not finite, before the optimiser takes a step.

        On a GPU, the gradients of a step are checked after the next one.
        """
        # Lightning leaves this callback with its trainer, which may fit another kind of module next
        network = getattr(pl_module, "network", pl_module)
        when = f"in epoch {trainer.current_epoch}, step {trainer.global_step}"
        self._gradients.check()  # first: on a GPU, such a gradient has made the weights and so this loss NaN
        self._watch.check(network, when=when, of_teacher=partial(teacher_fault, pl_module))
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # a scaler leaves out steps that overflow
            self._gradients.watch(pl_module, when=when)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises a ValueError rather than save the weights after a step whose gradients were not finite."""
        self._gradients.check()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the gradients of the last step, and logs the means."""
        self._gradients.check()
        sums = {name: (float(total), count) for name, (total, count) in self._sums.items()}
        for name, value in gathered_means(all_gather_objects(sums)).items():
            # all processes have the same value; without sync_dist Lightning would warn that they may differ
            pl_module.log(f"train/{name}", value, sync_dist=True)
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        """The sums of all processes in this epoch so far; empty between epochs."""
        sums = {name: (total.cpu(), count) for name, (total, count) in self._sums.items()}
        return {"sums": all_gather_objects(sums)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the sums of this process."""
        self._sums = rank_part(state_dict["sums"], {})


class _Watched(NamedTuple):
    finite: Tensor
    copied: torch.cuda.Event | None
    loss: Tensor
    terms: Mapping[str, Tensor]
    batch: Batch
    inputs: Sequence[str]


class LossWatch:
    """Checks the loss of each step while its backward pass runs.

    On a GPU the check waits for the forward pass only: the result of ``isfinite`` is copied to pinned memory right
    after it, while the backward pass keeps the GPU busy. The cause is searched only if the loss is not finite. If a
    finite loss has float16 gradients that overflow, AMP's scaler handles them.
    """

    def __init__(self) -> None:
        self._watched: _Watched | None = None

    def watch(self, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch, inputs: Sequence[str] = ()) -> None:
        """Keeps the losses of a step until :meth:`check`.

        Args:
            loss: The loss of the step, a scalar.
            terms: The terms of that sum, by name.
            batch: The batch of the step.
            inputs: The names of the modalities that a network sees; other values of the batch are no cause.
        """
        detached = {name: value.detach() for name, value in terms.items()}
        self._watched = _Watched(*copied_to_cpu(loss.detach().isfinite()), loss.detach(), detached, batch, inputs)

    def check(self, network: nn.Module, *, when: str, of_teacher: Callable[[Batch], str | None] = no_fault) -> None:
        """Checks the loss of the last step, and forgets the step.

        Args:
            network: The trained network; its weights may be the cause.
            when: The epoch and step, for the message.
            of_teacher: What is wrong with the teacher on a batch; called only if the loss is not finite.

        Raises:
            ValueError: The loss is not finite. The message names the samples that are not finite; if all are finite,
                it names the first such weight; if these are finite too, the teacher's weight or output, or the terms.
        """
        watched, self._watched = self._watched, None
        if watched is None:
            return
        if watched.copied is not None:
            watched.copied.synchronize()
        if not watched.finite:
            raise UserError(f"the loss is {float(watched.loss)} {when}: {_cause(watched, network, of_teacher)}")


def _cause(watched: _Watched, network: nn.Module, of_teacher: Callable[[Batch], str | None]) -> str:
    for name in watched.inputs:
        chosen = complete_rows(watched.batch, [name])
        batch = watched.batch if chosen is None else chosen_samples(watched.batch, chosen)
        rows = not_finite_samples(batch[name])
        if chosen is not None and "index" not in batch:
            rows = chosen[rows]
        if len(rows):
            return f"{name!r} is not finite in {named_samples(rows, batch.get('index'))}"
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            return f"the network's weight {name!r} is not finite, but all inputs are"
    if fault := of_teacher(watched.batch):
        return fault
    terms = [name for name, value in watched.terms.items() if not value.isfinite().all()]
    if not terms:
        return "all its terms, all inputs of this process and all weights are finite"
    return f"these terms are not finite: {', '.join(terms)}; all inputs of this process and all weights are"
