"""Teacher and student pairs small enough to fit in a second, and what they return, kept for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from callbacks.parts.step import Step, read_step
from distill import Batch, Classification, DistillationModule, NetworkOutput, Supervised

CLASSES = 4
WIDTHS = {"x_a": 6, "x_b": 6}


class Imitation(DistillationModule):
    """The student's logits are drawn to the teacher's."""

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        return {"imitation": (student.prediction - teacher.prediction).square().mean(1)}


class Samples(Dataset[dict[str, Any]]):
    """Random samples that only their seed decides."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.modalities = {name: torch.randn(count, width, generator=generator) for name, width in WIDTHS.items()}
        self.target = torch.randint(CLASSES, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> dict[str, Any]:
        own = {name: values[index] for name, values in self.modalities.items()}
        return {**own, "target": self.target[index], "index": index}


class Replay(LightningModule):
    """Steps that return logits which the batches already hold; its one parameter learns nothing."""

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"loss": self.weight.square(), **self.validation_step(batch, batch_idx)}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {
            "prediction": batch["student"],
            "teacher_prediction": batch["teacher"],
            "inputs": (batch.get("x_a", batch["student"]),),
            "teacher_inputs": (batch.get("x_b", batch["teacher"]),),
            "ignore_index": self.ignore_index,
        }

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recorder(Callback):
    """Keeps logits and targets of every epoch and stage, without the sanity check."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], list[tuple[Tensor, Tensor, Tensor]]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._keep(trainer, "train", outputs, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._keep(trainer, "val", outputs, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._keep(trainer, "test", outputs, batch)

    def epoch(self, epoch: int, stage: str) -> tuple[Tensor, Tensor, Tensor]:
        student, teacher, target = zip(*self.seen[epoch, stage], strict=True)
        return torch.cat(student), torch.cat(teacher), torch.cat(target)

    def _keep(self, trainer: Trainer, stage: str, outputs: Any, batch: Any) -> None:
        kept = (outputs["prediction"].clone(), outputs["teacher_prediction"].clone(), batch["target"].clone())
        self.seen.setdefault((trainer.current_epoch, stage), []).append(kept)


def read(outputs: Any, batch: Any) -> Step:
    step = read_step(outputs, batch)
    assert step is not None
    return step


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def linear(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(6, CLASSES)


def imitation() -> Imitation:
    return Imitation(
        teacher=linear(1).eval(),
        student=linear(2),
        task=Classification(CLASSES),
        teacher_inputs=["x_a"],
        student_inputs=["x_b"],
        optimizer=sgd,
    )


def supervised() -> Supervised:
    return Supervised(linear(2), Classification(CLASSES), ["x_b"], sgd)


def loader(count: int, seed: int = 0) -> DataLoader[Any]:
    return DataLoader(Samples(count, seed), batch_size=8)


def batches_of(**tensors: Tensor) -> DataLoader[Any]:
    count = len(tensors["target"])
    samples = [{name: values[index] for name, values in tensors.items()} for index in range(count)]
    return DataLoader(samples, batch_size=3)  # type: ignore[arg-type]


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "logger": CSVLogger(folder, name="", version="run"),
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **options})


def divergences(student: Tensor, teacher: Tensor, target: Tensor) -> dict[str, float]:
    """The definitions of PSSM and NTDH sample by sample, in float64, for logits ``(N, C)``."""
    outputs: list[Tensor] = []
    binary: list[Tensor] = []
    others: list[Tensor] = []
    for logits in (student.double(), teacher.double()):
        p = F.softmax(logits, 1)
        outputs.append(p)
        binary.append(torch.stack([torch.stack([p[n, t], 1 - p[n, t]]) for n, t in enumerate(target.tolist())]))
        kept = [[c for c in range(logits.shape[1]) if c != t] for t in target.tolist()]
        others.append(torch.stack([F.softmax(logits[n, classes], 0) for n, classes in enumerate(kept)]))
    return {
        "cmd": cmd(outputs[0], outputs[1]),
        "cmd_target": cmd(binary[0], binary[1]),
        "cmd_nontarget": cmd(others[0], others[1]),
        "tcjsd": js_terms(binary[0][:, 0], binary[1][:, 0]).mean().item(),
        "ncjsd": js_terms(others[0], others[1]).sum(1).mean().item(),
    }


def cmd(a: Tensor, b: Tensor, moments: int = 5) -> float:
    total = (a.mean(0) - b.mean(0)).norm()
    for k in range(2, moments + 1):
        total += (((a - a.mean(0)) ** k).mean(0) - ((b - b.mean(0)) ** k).mean(0)).norm()
    return float(total)


def js_terms(p: Tensor, q: Tensor) -> Tensor:
    m = (p + q) / 2
    return (p * (p / m).log() + q * (q / m).log()) / 2
