"""The teacher in a precision of its own, and memory formats that follow the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill import Batch, DistillationModule
from distill.models import ResNet32x4
from distill.teacher.frozen import FrozenTeacher, Precision
from tests.gpu import milliseconds
from tests.toys import METHODS, DenseNet, Net, ToyData, make, make_batch, network, pair_arguments, quiet_trainer

# the largest difference to float32, as a share of the largest value: a few roundings to 8 and to 11 binary digits
TOLERANCES: dict[Precision, float] = {"bf16": 2e-2, "fp16": 3e-3}
every_precision = pytest.mark.parametrize("precision", TOLERANCES)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@every_precision
@pytest.mark.parametrize("make_network", [Net, DenseNet])
def test_outputs_are_float32_and_close_to_those_of_float32(precision: Precision, make_network: Any) -> None:
    torch.manual_seed(0)
    plain = make_network(10, width=32).eval()
    twin = make_network(10, width=32)
    twin.load_state_dict(plain.state_dict())
    x = torch.randn(64, 10, *((5, 6) if make_network is DenseNet else ()))
    expected = FrozenTeacher(plain, ["norm", "first"])(x)
    half = FrozenTeacher(twin, ["norm", "first"], precision)
    for context in (torch.autocast("cpu", enabled=False), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found = half(x)
        assert {x.dtype for x in (found.prediction, *found.features.values())} == {torch.float32}
        assert_close(found.prediction, expected.prediction, TOLERANCES[precision])
        assert list(found.features) == ["norm", "first"]
        for layer, feature in found.features.items():
            assert_close(feature, expected.features[layer], TOLERANCES[precision])
    assert not torch.equal(found.prediction, expected.prediction)
    assert {p.dtype for p in twin.parameters()} == {DTYPES[precision]}


@every_precision
def test_the_teacher_keeps_its_precision_when_the_module_is_cast(precision: Precision) -> None:
    module = make("KD", teacher_precision=precision)
    assert module.teacher is not None
    before = {name: weight.clone() for name, weight in module.teacher.state_dict().items()}
    module.double().half().float()
    for name, weight in module.teacher.state_dict().items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name])


class Whole(nn.Module):
    """Takes a mask beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        self.seen = [x.dtype, mask.dtype]
        logits: Tensor = self.head(x) * mask[:, None]
        return logits


def test_inputs_of_other_types_than_float_are_not_cast() -> None:
    teacher = FrozenTeacher(Whole(), [], "bf16")
    teacher(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    assert teacher.network.seen == [torch.bfloat16, torch.int64]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_a_teacher_of_half_precision(method: str, tmp_path: Path) -> None:
    losses = []
    for precision in (None, "bf16"):
        torch.manual_seed(3)
        module = make(method, teacher_precision=precision)
        trainer = quiet_trainer(tmp_path, max_epochs=2, limit_train_batches=2, limit_val_batches=0)
        trainer.fit(module, ToyData(method=method))
        losses.append(float(trainer.callback_metrics["train/loss"]))
        assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(ValueError, match="teacher_precision must be one of bf16, fp16, got 'int8'"):
        make("KD", teacher_precision="int8")


class Formats(DistillationModule):
    """Notes how the features of both networks lie in memory."""

    def distillation_step(self, teacher: Any, student: Any, batch: Batch) -> dict[str, Tensor]:
        self.seen = [
            x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            for output in (teacher, student)
            for x in output.features.values()
        ]
        return {"difference": (teacher.features["first"] - student.features["first"]).pow(2).mean()}


@pytest.mark.parametrize("channels_last", [True, False])
def test_features_have_the_memory_format_of_the_images_and_the_same_values(channels_last: bool) -> None:
    method = "LIX on maps"
    batch = make_batch(method=method)
    layers = {"teacher_layers": ["first", "norm"], "student_layers": ["first", "norm"]}
    module = Formats(**pair_arguments(method, **layers, student=network(method, 4).eval()))
    expected = [*module.forward_both(batch)]
    if channels_last:
        images = {name: x.contiguous(memory_format=torch.channels_last) for name, x in batch.items() if x.ndim == 4}
        batch = batch | images
    outputs = module.forward_both(batch)
    module.distillation_step(*outputs, batch)
    assert module.seen == [channels_last] * 4
    for found, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found.prediction, other.prediction, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@every_precision
def test_half_precision_makes_a_large_teacher_faster_on_a_gpu(precision: Precision) -> None:
    x = torch.randn(256, 3, 32, 32, device="cuda")
    plain, half = (FrozenTeacher(ResNet32x4(100).cuda(), [], chosen) for chosen in (None, precision))
    assert milliseconds(lambda: half(x)) < milliseconds(lambda: plain(x))
