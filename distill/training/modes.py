"""Sets the modes and types of a module's parts when a fit begins."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import nn


def ready_to_train(module: LightningModule, network: nn.Module) -> None:
    """Puts the network in training mode; if it is in half precision, all other parts get float32.

    ``from_pretrained`` of Hugging Face returns networks in eval mode, and Lightning keeps this mode. If only single
    layers of a network are in eval mode, this is on purpose, and they stay so. With precision ``bf16-true`` Lightning
    converts the whole module, but losses and metrics must stay in float32.
    """
    if not network.training:
        network.train()
    if module.dtype in (torch.float16, torch.bfloat16):
        for part in module.children():
            if part is not network:
                part.float()
