"""Tiny networks, data and methods, on which guarantees are tried."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import distill.methods
from datamodules.serving.loading import ResumableLoader
from distill import (
    Batch,
    Classification,
    DepthEstimation,
    DistillationModule,
    SemanticSegmentation,
    Task,
)
from distill.losses import decode_depth
from tests.methods.examples import EXAMPLES, VARIANTS, Kind

CLASSES = 4
SIZE = (3, 4)
ON_MAPS = " on maps"
ON_DEPTH = " on depth"
MAX_DEPTH = 10.0


class Net(nn.Module):
    """Two layers with BatchNorm and dropout between them: everything that a teacher must not move."""

    def __init__(self, in_features: int, width: int = 6, classes: int = CLASSES) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        x = torch.cat([x, *others], dim=1)
        logits: Tensor = self.head(self.dropout(F.relu(self.norm(self.first(x)))))
        return logits


class DenseNet(nn.Module):
    """The same for maps: one prediction a pixel."""

    def __init__(self, in_channels: int, width: int = 6, classes: int = CLASSES) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        x = torch.cat([x, *others], dim=1)
        logits: Tensor = self.head(self.dropout(F.relu(self.norm(self.first(x)))))
        return logits


class DepthNet(DenseNet):
    """The same with one depth a pixel, decoded from the head's logits over bins; not for 5, as if not decoded."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        logits = super().forward(x, *others)
        return logits if logits.shape[1] == 5 else decode_depth(logits, max_depth=MAX_DEPTH)


def network(method: str, in_features: int, **arguments: Any) -> nn.Module:
    """A network for the data that the method is tried on."""
    make_network = DepthNet if method.endswith(ON_DEPTH) else DenseNet if method.endswith(ON_MAPS) else Net
    return make_network(in_features, **arguments)


def make_task(method: str) -> Task:
    """The task that the method is tried on."""
    if method.endswith(ON_DEPTH):
        return DepthEstimation(max_depth=MAX_DEPTH, ignore_top_rows=1)
    return SemanticSegmentation(CLASSES) if method.endswith(ON_MAPS) else Classification(CLASSES)


def positions(method: str) -> tuple[int, ...]:
    """The spatial size of the method's data."""
    return SIZE if method.endswith((ON_MAPS, ON_DEPTH)) else ()


def ignored(method: str) -> int:
    """The target of positions to ignore."""
    return make_task(method).ignore_index


def pair_arguments(method: str = "", **changes: Any) -> dict[str, Any]:
    """What every method needs: a teacher of two modalities, a student of one."""
    torch.manual_seed(0)
    return {
        "teacher": network(method, 10).eval(),
        "student": network(method, 4),
        "task": make_task(method),
        "teacher_inputs": ["x_a", "x_b"],
        "student_inputs": ["x_b"],
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    } | changes


KINDS: dict[Kind, str] = {"vectors": "", "maps": ON_MAPS, "depth": ON_DEPTH}
METHODS = [
    *(name + KINDS[kind] for name, example in EXAMPLES.items() for kind in example.toys),
    *(name + KINDS[variant.kind] for name, variant in VARIANTS.items()),
]
"""Every method on each kind of data that it takes, and variants of some."""


def make(method: str, **changes: Any) -> DistillationModule:
    """A method of ``distill.methods`` by its name, or a variant, on tiny networks."""
    name = method.removesuffix(ON_MAPS).removesuffix(ON_DEPTH)
    arguments = pair_arguments(method, **changes)
    if name in VARIANTS:
        return VARIANTS[name].make(**arguments)
    kind = next(kind for kind in EXAMPLES[name].toys if name + KINDS[kind] == method)
    module: DistillationModule = getattr(distill.methods, name)(**arguments, **EXAMPLES[name].toys[kind]())
    return module


def make_batch(count: int = 6, seed: int = 0, method: str = "") -> Batch:
    """Random samples of two modalities with labels, as the method takes them."""
    generator = torch.Generator().manual_seed(seed)
    size = positions(method)
    target = torch.randint(CLASSES, (count, *size), generator=generator)
    if method.endswith(ON_DEPTH):
        target = MAX_DEPTH * torch.rand(count, 1, *size, generator=generator)
    return {
        "x_a": torch.randn(count, 6, *size, generator=generator),
        "x_b": torch.randn(count, 4, *size, generator=generator),
        "target": target,
        "index": torch.arange(count),
    }


def prepared(module: DistillationModule, batch: Batch | None = None) -> DistillationModule:
    """The module with its lazy adaptors made, as after ``setup``."""
    suffixes: dict[type, str] = {SemanticSegmentation: ON_MAPS, DepthEstimation: ON_DEPTH}
    method = suffixes.get(type(module.task), "")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        modes = {part: part.training for part in module.modules()}
        module.eval()
        module.check_batch(batch or make_batch(method=method))
        for part, mode in modes.items():
            part.training = mode
    return module


class Samples(Dataset[Batch]):
    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["target"])

    def __getitem__(self, position: int) -> Batch:
        return {name: values[position] for name, values in self.batch.items()}


class ToyData(LightningDataModule):
    """Random pairs as the method takes them; ``batch`` replaces them."""

    num_classes = CLASSES
    fixed_modalities = ("x_a", "x_b")

    def __init__(self, batch: Batch | None = None, batch_size: int = 4, method: str = "") -> None:
        super().__init__()
        self.samples = Samples(make_batch(10, method=method) if batch is None else batch)
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Batch]:
        return ResumableLoader(self.samples, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.samples, batch_size=self.batch_size)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader


def quiet_trainer(folder: Any, **settings: Any) -> Trainer:
    """A CPU trainer of two epochs that prints nothing."""
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return Trainer(**defaults | settings)
