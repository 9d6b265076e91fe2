"""Tiny networks, data and methods, on which guarantees are tried."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import distill.methods
from distill import Batch, Classification, DistillationModule, NetworkOutput
from distill.distributed import gather
from distill.methods import DKD, KD, NTDH, PSSM
from distill.weighting import NontargetSampleMask, PerceptualSolutionSpaceMask

CLASSES = 4


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


class HintAndRelations(DistillationModule):
    """Features through a lazy adaptor, and relations between all samples of the global batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adaptor = nn.LazyLinear(8)
        self.teacher_adaptor = nn.LazyLinear(8)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        (theirs,), (ours,) = teacher.features.values(), student.features.values()
        hint = (self.adaptor(ours) - self.teacher_adaptor(theirs)).pow(2).mean(dim=1)
        gram, other = (F.normalize(gather(f), dim=1) @ F.normalize(gather(f), dim=1).T for f in (ours, theirs))
        return {"hint": hint, "relations": (gram - other).pow(2).mean()}


def pair_arguments(**changes: Any) -> dict[str, Any]:
    """What every method needs: a teacher of two modalities, a student of one."""
    torch.manual_seed(0)
    return {
        "teacher": Net(10).eval(),
        "student": Net(4),
        "task": Classification(CLASSES),
        "teacher_inputs": ["x_a", "x_b"],
        "student_inputs": ["x_b"],
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    } | changes


VARIANTS: dict[str, Callable[..., DistillationModule]] = {
    "KD under PSSM": partial(KD, weighting=PerceptualSolutionSpaceMask()),
    "DKD with sample mask": partial(DKD, weighting=NontargetSampleMask(0.5), warmup_epochs=0),
    "PSSM of KD": partial(PSSM, loss="kd", reading="printed"),
    "PSSM dropping": partial(PSSM, reading="drop_wrong"),
    "NTDH with sample mask": partial(NTDH, sample_mask=NontargetSampleMask(0.25)),
    "hint and relations": partial(HintAndRelations, teacher_layers=["first"], student_layers=["first"]),
}

# what a method cannot be made without, beside what pair_arguments gives
NEEDED: dict[str, Callable[[], dict[str, Any]]] = {
    "Combined": lambda: {
        "methods": {
            "kd": KD(),
            "hint": HintAndRelations(teacher_layers=["norm"], student_layers=["first"]),
            "again": HintAndRelations(teacher_layers=["norm"], student_layers=["head"]),
        },
        "weights": {"hint": 0.5},
    }
}

METHODS = [*distill.methods.__all__, *VARIANTS]


def make(method: str, **changes: Any) -> DistillationModule:
    """A method of ``distill.methods`` by its name, or a variant, on tiny networks."""
    needed = NEEDED.get(method, dict)()
    make_method = VARIANTS.get(method) or getattr(distill.methods, method)
    module: DistillationModule = make_method(**pair_arguments(**changes), **needed)
    return module


def make_batch(count: int = 6, seed: int = 0) -> Batch:
    """Random samples of two modalities with labels."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "x_a": torch.randn(count, 6, generator=generator),
        "x_b": torch.randn(count, 4, generator=generator),
        "target": torch.randint(CLASSES, (count,), generator=generator),
        "index": torch.arange(count),
    }


def prepared(module: DistillationModule, batch: Batch | None = None) -> DistillationModule:
    """The module with its lazy adaptors made, as after ``setup``."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        modes = {part: part.training for part in module.modules()}
        module.eval()
        module._probe(batch or make_batch())
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
    """Random pairs; ``batch`` replaces them."""

    num_classes = CLASSES

    def __init__(self, batch: Batch | None = None, batch_size: int = 4) -> None:
        super().__init__()
        self.samples = Samples(make_batch(10) if batch is None else batch)
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.samples, batch_size=self.batch_size, shuffle=True)

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
