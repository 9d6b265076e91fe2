"""The weights of the dynamic weight controller of DWLD and LIX during training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.methods import DynamicWeightController


class ControllerTracker(Callback):
    """Logs ``train/beta``, the mean weight over all classes, pixels and steps of an epoch.

    Compare it with the loss, ``train/ncld`` (LIX: ``train/dwld/ncld``): the two show whether the controller weights
    classes differently, or only moves all weights to the end of its range that lowers the loss. The mean includes
    target classes and ignored pixels, whose weights the loss does not read. Without a controller, nothing is logged.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._betas: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a hook to each controller."""
        controllers = [module for module in pl_module.modules() if isinstance(module, DynamicWeightController)]
        self._handles = [controller.register_forward_hook(self._record) for controller in controllers]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs the weights of the step."""
        for beta in self._betas:
            size = len(outputs["prediction"])
            pl_module.log("train/beta", beta, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        self._betas = []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes the hooks, also after a fit that failed."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _record(self, controller: nn.Module, inputs: Any, beta: Tensor) -> None:
        if controller.training:  # not in a validation
            self._betas.append(beta.detach().mean())
