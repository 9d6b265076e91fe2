"""What a step of a fit costs for every method, beside one that is written by hand in plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import DivergenceTracker
from distill import Batch, Classification, DistillationModule, methods
from distill.methods import KD, DimensionalStructure
from distill.models import ResNet8x4, ResNet32x4
from tests.benchmarks.cost import now
from tests.benchmarks.pages import StepCost

BATCH, CLASSES = 64, 100
WARM_UP, ROUNDS = 1, 7


def layers(*names: str) -> dict[str, Any]:
    return {"teacher_layers": names, "student_layers": names}


ON_LOGITS = ("KD", "DKD", "PSSM", "NTDH", "DWLD", "ALKD")
STAGES = layers("stage1", "stage2", "stage3")
ALL = layers("stage1", "stage2", "stage3", "pool")
# the layers of configs/studies/ds_cifar100.yaml; of a method with two stages the first, of FitNet both at once
ARGUMENTS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ON_LOGITS},
    **dict.fromkeys(("AT", "NST", "VID", "SemCKD", "ARFD", "LIX", "TwoDPASS"), STAGES),
    **dict.fromkeys(("RKD", "SP", "PKT", "CC", "AFKD"), layers("pool")),
    "CRD": {**layers("pool"), "num_samples": 50000},
    "CWD": layers("stage3"),
    "FitNet": {**layers("stage2"), "joint": True},
    "FT": {**layers("stage3"), "stage_one_epochs": 1},
    "FSP": {**layers("stage1", "stage2", "stage2", "stage3"), "stage_one_epochs": 1},
    "DimensionalStructure": ALL,
    "Combined": {"methods": {"kd": KD, "ds": partial(DimensionalStructure, **ALL)}},
}


class OwnLayers:
    """The convolutions and linear layers of a method alone, forward and backward, on what the last step gave them."""

    def __init__(self, method: DistillationModule) -> None:
        self.inputs: dict[nn.Module, Tensor] = {}
        assert method.teacher is not None
        assert method.student is not None
        of_networks = {*method.teacher.modules(), *method.student.modules()}
        for layer in method.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and layer not in of_networks:
                layer.register_forward_hook(self.after_backward)

    def after_backward(self, layer: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        self.inputs[layer] = inputs[0].detach().requires_grad_(inputs[0].requires_grad)

    def __call__(self) -> None:
        for layer, given in self.inputs.items():
            learning = [tensor for tensor in (given, *layer.parameters()) if tensor.requires_grad]
            output = layer.forward(given)  # not a call, which would be remembered
            torch.autograd.grad(output, learning, torch.ones_like(output))


class Stopwatch(Callback):
    """The seconds of each step, and of one by hand before it; ``noted`` are those without later callbacks."""

    def __init__(self, by_hand: Callable[[], None], own_layers: Callable[[], None]) -> None:
        self.by_hand = by_hand
        self.own_layers = own_layers
        self.layers: list[float] = []
        self.hand: list[float] = []
        self.noted: list[float] = []
        self.whole: list[float] = []
        self.started = 0.0

    def note(self, *_: Any) -> None:
        self.noted.append(now() - self.started)

    def on_train_batch_end(self, *_: Any) -> None:
        self.whole.append(now() - self.started)
        started = now()
        self.own_layers()
        self.layers.append(now() - started)
        started = now()
        self.by_hand()
        self.started = now()
        self.hand.append(self.started - started)


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher = ResNet32x4(CLASSES)
    for part in teacher.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0  # the statistics of one batch: with the first ones features grow from layer to layer
    with torch.no_grad():
        teacher(torch.randn(BATCH, 3, 32, 32))
    return teacher.eval(), ResNet8x4(CLASSES)


def optimiser(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "clean": torch.randn(BATCH, 3, 32, 32, generator=generator),
            "noisy": torch.randn(BATCH, 3, 32, 32, generator=generator),
            "target": torch.randint(CLASSES, (BATCH,), generator=generator),
            "index": torch.randint(50000, (BATCH,), generator=generator),
        }
        for _ in range(count)
    ]


def step_by_hand(batch: Batch) -> Callable[[], None]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, student = (network.to(device) for network in networks())
    clean, noisy, target = (batch[name].to(device) for name in ("clean", "noisy", "target"))
    optimizer = optimiser(student.parameters())

    def step() -> None:
        with torch.no_grad():
            teacher(clean)
        optimizer.zero_grad()
        F.cross_entropy(student(noisy), target).backward()
        optimizer.step()

    return step


def make(name: str) -> DistillationModule:
    teacher, student = networks()
    arguments = copy.deepcopy(ARGUMENTS[name])
    if "methods" in arguments:
        arguments["methods"] = {part: method() for part, method in arguments["methods"].items()}
    method: DistillationModule = getattr(methods, name)(
        teacher=teacher,
        student=student,
        task=Classification(CLASSES),
        teacher_inputs=["clean"],
        student_inputs=["noisy"],
        optimizer=optimiser,
        **arguments,
    )
    return method


def fit(module: LightningModule, data: list[Batch], callbacks: list[Callback], folder: Path) -> None:
    trainer = Trainer(
        max_epochs=2,  # a method with two stages asks for a second
        max_steps=len(data),
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=callbacks,
    )
    trainer.fit(module, DataLoader(data, batch_size=None))  # type: ignore[arg-type]


@pytest.mark.benchmark
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_cost_of_a_step_beside_one_by_hand(name: str, tmp_path: Path, keep: Callable[[StepCost], None]) -> None:
    data = batches(1 + WARM_UP + ROUNDS)
    method = make(name)
    watch = Stopwatch(step_by_hand(data[0]), OwnLayers(method))
    fit(method, data, [LambdaCallback(on_train_batch_end=watch.note), DivergenceTracker(), watch], tmp_path)
    # a step by hand comes after each step of the fit, so before the next
    rounds = list(zip(watch.hand, watch.layers, watch.noted[1:], watch.whole[1:], strict=False))[WARM_UP:]
    assert len(rounds) >= ROUNDS
    over_hand = median(noted / hand for hand, _, noted, _ in rounds)
    own_layers = median(layers / hand for hand, layers, _, _ in rounds)
    callbacks = median((whole - noted) / hand for hand, _, noted, whole in rounds)
    time = median(noted for _, _, noted, _ in rounds)
    keep(StepCost(name, name in ON_LOGITS, 1e3 * time, over_hand, own_layers, callbacks))
