"""The losses of a fit: each is watched for NaN and infinity, and an epoch's means are logged when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from distill.distributed import all_gather_objects, rank_part
from distill.outputs import Batch

SAMPLES_NAMED = 8
"""How many samples an error names; it counts the others."""


class TrainingLosses(Callback):
    """Stops a fit at the first loss that is not finite, and logs an epoch's mean losses as ``train/<name>``.

    A callback, so that a module which overrides a hook without ``super()`` does not lose them. The module hands over
    the losses of each step by :meth:`record`.
    """

    def __init__(self) -> None:
        self._watch = LossWatch()
        self._sums: dict[str, tuple[Tensor, int]] = {}

    @property
    def state_key(self) -> str:
        """The name in checkpoints, which is older than that of the class."""
        return "EpochLosses"

    def record(self, module: LightningModule, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """Watches the losses of a step, shows the sum in the progress bar, and adds all to those of the epoch.

        Args:
            module: Logs them.
            loss: The loss of the step, a scalar.
            terms: The parts of that sum, by name.
            batch: What the loss was computed from.
        """
        self._watch.watch(loss, terms, batch)
        samples = len(next(iter(batch.values())))
        module.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=samples)
        # a call of log() costs half a millisecond, and there may be many terms: the means are logged once an epoch
        for name, value in {"loss": loss, **terms}.items():
            total, count = self._sums.get(name, (torch.zeros(()), 0))
            self._sums[name] = total + samples * value.detach(), count + samples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what a failed fit has left; a checkpoint is loaded after this."""
        self._sums = {}

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises a ValueError where the loss is not finite, before the optimiser takes a step with it."""
        module: Any = pl_module
        self._watch.check(module.network, when=f"in epoch {trainer.current_epoch}, step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the means."""
        for name, (total, samples) in self._sums.items():
            pl_module.log(f"train/{name}", total / samples, sync_dist=True, batch_size=samples)
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        """The sums so far of every process; none between epochs."""
        sums = {name: (total.cpu(), count) for name, (total, count) in self._sums.items()}
        return {"sums": all_gather_objects(sums)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with the sums of this process."""
        self._sums = rank_part(state_dict["sums"], {})


class _Watched(NamedTuple):
    finite: Tensor
    copied: torch.cuda.Event | None
    loss: Tensor
    terms: Mapping[str, Tensor]
    batch: Batch


class LossWatch:
    """Looks at the loss of each step while its backward pass runs.

    On a GPU that waits for the forward pass alone: right behind it, whether the loss is finite is copied to pinned
    memory, while the backward pass keeps the GPU busy. The cause is looked for only where the loss is not finite.
    Gradients that overflow in float16 from a finite loss are left to the scaler of AMP.
    """

    def __init__(self) -> None:
        self._watched: _Watched | None = None

    def watch(self, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """Remembers the step until :meth:`check`.

        Args:
            loss: The loss of the step, a scalar.
            terms: The parts of that sum, by name.
            batch: What the loss was computed from.
        """
        finite = loss.detach().isfinite().to("cpu", non_blocking=loss.is_cuda)
        copied = None
        if loss.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        detached = {name: value.detach() for name, value in terms.items()}
        self._watched = _Watched(finite, copied, loss.detach(), detached, batch)

    def check(self, network: nn.Module, *, when: str) -> None:
        """Forgets a step with a finite loss.

        Args:
            network: Its weights may be the cause.
            when: Names the step in the error.

        Raises:
            ValueError: The loss was not finite; names the samples that are not finite, or else the weights or terms.
        """
        watched, self._watched = self._watched, None
        if watched is None:
            return
        if watched.copied is not None:
            watched.copied.synchronize()
        if not watched.finite:
            raise ValueError(f"the loss is {float(watched.loss)} {when}: {_cause(watched, network)}")


def _cause(watched: _Watched, network: nn.Module) -> str:
    for name, values in watched.batch.items():
        if name == "target" or not values.is_floating_point():
            continue
        rows = (~values.reshape(len(values), -1).isfinite().all(1)).nonzero()[:, 0]
        if len(rows):
            return f"{name!r} is not finite in {_samples(rows, watched.batch.get('index'))}"
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            return f"the network's weight {name!r} is not finite, but all inputs are"
    terms = [name for name, value in watched.terms.items() if not value.isfinite().all()]
    return f"of its terms {', '.join(terms) or 'none'} is not finite, but all inputs of this process and weights are"


def _samples(rows: Tensor, index: Tensor | None) -> str:
    numbers = rows if index is None else index[rows]
    named = ", ".join(map(str, numbers[:SAMPLES_NAMED].tolist()))
    rest = f" and {len(rows) - SAMPLES_NAMED} more" if len(rows) > SAMPLES_NAMED else ""
    return f"samples {named}{rest} of the {'batch' if index is None else 'data set'}"
