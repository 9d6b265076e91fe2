"""Modes and types of the parts of a module when a fit begins."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import nn


def ready_to_train(module: LightningModule, network: nn.Module) -> None:
    """Puts the network in training mode, and all else in float32 where the weights are in half precision.

    ``from_pretrained`` of Hugging Face leaves networks in eval mode, which Lightning keeps; of others single layers may
    be in eval mode on purpose. With precision ``bf16-true`` Lightning converts the whole module, but losses and metrics
    stay in float32.
    """
    if not network.training:
        network.train()
    if module.dtype in (torch.float16, torch.bfloat16):
        for part in module.children():
            if part is not network:
                part.float()
