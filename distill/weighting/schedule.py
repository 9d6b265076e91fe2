"""Calls the hooks of the weightings during a fit, and logs what they do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from distill.distributed import all_gather_objects, gather, rank_part
from distill.weighting.base import SampleWeighting


class WeightingSchedule(Callback):
    """Gives every weighting in a method the task's ``ignore_index``, and calls its ``begin_epoch``.

    It also logs the share of the counted positions of an epoch that each weighting gives a weight below 1, over all
    processes, and warns once if a weighting gives no other weight than 1. It sees the weights of the training steps by
    a forward hook, so that a method's step stays pure.
    """

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []
        # of each weighting in this epoch and process: the positions with a weight below 1, with another one than 1, all
        self._counts: dict[str, Tensor] = {}
        self._warned: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sets ``ignore_index`` before the check of the first batch; a checkpoint is loaded after this."""
        method: Any = pl_module
        for _, weighting in _weightings(method):
            weighting.ignore_index = method.ignore_index
        self._remove_hooks()
        self._counts, self._warned = {}, set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calls ``begin_epoch`` for a fit that resumes in the middle of an epoch, and begins to count."""
        self.on_train_epoch_start(trainer, pl_module)
        for name, weighting in _weightings(pl_module):
            self._counts.setdefault(name, torch.zeros(3, dtype=torch.int64))
            self._hooks.append(weighting.register_forward_hook(partial(self._count, name), with_kwargs=True))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calls ``begin_epoch``."""
        for _, weighting in _weightings(pl_module):
            weighting.begin_epoch(trainer.current_epoch, trainer.max_epochs or -1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the share of each weighting, and warns of one without effect."""
        for name, weighting in _weightings(pl_module):
            lowered, changed, counted = gather(self._counts[name].to(pl_module.device)[None]).sum(0).tolist()
            self._counts[name] = torch.zeros(3, dtype=torch.int64)
            if not counted:
                continue
            pl_module.log(f"weighting/{_shown(name)}_share", lowered / counted, sync_dist=True, batch_size=1)
            if not changed and weighting.is_active and name not in self._warned:
                self._warned.add(name)
                cause = f", {weighting.usual_cause}" if weighting.usual_cause else ""
                rank_zero_warn(
                    f"{_shown(name)} ({type(weighting).__name__}) gave all {counted} positions of epoch "
                    f"{trainer.current_epoch} the weight 1, so it has no effect{cause}"
                )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends counting."""
        self._remove_hooks()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends counting."""
        self._remove_hooks()

    def state_dict(self) -> dict[str, Any]:
        """The counts of all processes in this epoch so far; empty without weightings."""
        if not self._counts:
            return {}
        return {"counts": all_gather_objects({name: counts.cpu() for name, counts in self._counts.items()})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counts of this process."""
        self._counts = rank_part(state_dict["counts"], {})

    def _count(self, name: str, weighting: SampleWeighting, args: Any, kwargs: Any, weights: Tensor) -> None:
        if not weighting.training:  # a validation
            return
        batch = kwargs.get("batch", args[-1] if args else {})
        target = batch.get("target")
        known = target is not None and target.shape == weights.shape
        counted = target != weighting.ignore_index if known else torch.ones_like(weights, dtype=torch.bool)
        counts = torch.stack([((weights < 1) & counted).sum(), ((weights != 1) & counted).sum(), counted.sum()])
        self._counts[name] = self._counts[name].to(counts.device) + counts

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def begin_fit(method: LightningModule) -> None:
    """Calls ``begin_fit`` of every weighting in a method; a weighting may rank the training set there."""
    fitted: Any = method
    for _, weighting in _weightings(method):
        weighting.begin_fit(fitted)


def _weightings(module: LightningModule) -> Iterator[tuple[str, SampleWeighting]]:
    """The weightings in a method by their names in it, such as ``mask`` or ``methods.kd.weighting``."""
    return ((name, part) for name, part in module.named_modules() if isinstance(part, SampleWeighting))


def _shown(name: str) -> str:
    """The name of a weighting in a log: as its method logs its terms, ``<part>/<name>`` in a combination."""
    return "/".join(part for part in name.split(".") if part != "methods")
