"""Depth that batches already hold, as if teacher and student had just seen it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill import Batch
from tests.callbacks.pairs import Replay

BINS, HEIGHT, WIDTH = 16, 8, 20
MAX_DEPTH = 8.0  # bins of half a metre


class ReplayDepth(Replay):
    """Steps that return the depth of the batch, the student's logits over bins among its features."""

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        seen = {"inputs": (batch["image"],), "teacher_inputs": (batch["image"],)}
        return super().validation_step(batch, batch_idx) | seen | {"features": {"bins": batch["bins"]}}


class ReplayWithoutTeacher(Replay):
    """Steps that return what those of a network without a teacher do."""

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"prediction": batch["student"], "inputs": (batch["image"],)}


def depths(count: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Samples whose target has holes, and a pixel beyond the range."""
    generator = torch.Generator().manual_seed(seed)

    def depth() -> Tensor:
        return 0.5 + 7 * torch.rand(count, 1, HEIGHT, WIDTH, generator=generator)

    target = depth()
    target[torch.rand(target.shape, generator=generator) < 0.2] = 0
    target[:, :, 0, 0] = 50
    return {
        "image": torch.randn(count, 3, HEIGHT, WIDTH, generator=generator),
        "target": target,
        "teacher": depth(),
        "student": depth(),
        "bins": torch.randn(count, BINS, HEIGHT, WIDTH, generator=generator),
    }
