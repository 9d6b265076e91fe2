"""What the dynamic weight controller of DWLD and LIX does during training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.methods import DynamicWeightController


class ControllerTracker(Callback):
    """Logs ``train/beta``, the mean weight over all classes, pixels and steps of an epoch.

    The sign of the loss stands in the log beside it, as ``train/ncld`` (``train/dwld/ncld`` of LIX). Together they show
    whether a controller weighs, or only runs to the end of its range that lowers the loss. The mean takes in target
    classes and ignored pixels, whose weights the loss does not read. Methods without a controller are left alone.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._features: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to the controllers."""
        controllers = [module for module in pl_module.modules() if isinstance(module, DynamicWeightController)]
        self._handles = [controller.register_forward_hook(self._hear) for controller in controllers]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs what was heard in the step."""
        for beta in self._features:
            size = len(batch["target"])
            pl_module.log("train/beta", beta, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        self._features = []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listens no more, also after a fit that failed."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hear(self, controller: nn.Module, inputs: Any, beta: Tensor) -> None:
        self._features.append(beta.detach().mean())
