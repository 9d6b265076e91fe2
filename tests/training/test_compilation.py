"""Compiled networks train as they do otherwise, with their taps, and under their own names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.utils import counters

from callbacks import StudentExport
from distill import DistillationModule
from distill.models import ResNet32x4
from tests.gpu import milliseconds
from tests.toys import Net, ToyData, make, network, quiet_trainer

TRIED = ["KD", "hint and relations", "CRD", "Combined", "LIX on maps", "TIEKD on depth"]


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def fitted(method: str, folder: Path, compile: bool | str, **settings: Any) -> tuple[DistillationModule, pl.Trainer]:  # noqa: A002
    pl.seed_everything(3, verbose=False)
    module = make(method, compile=compile)
    trainer = quiet_trainer(folder, **settings)
    trainer.fit(module, ToyData(method=method))
    return module, trainer


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> None:
    assert list(first) == list(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("method", TRIED)
def test_compiled_networks_end_with_the_same_weights_under_the_same_names(method: str, tmp_path: Path) -> None:
    plain, _ = fitted(method, tmp_path, False)
    assert not counters["stats"]
    compiled, _ = fitted(method, tmp_path, "eager")
    assert counters["stats"]["unique_graphs"] >= 2  # of teacher and student
    assert not counters["graph_break"]  # the taps are part of the graphs
    assert_close(compiled.state_dict(), plain.state_dict(), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hint and relations", "LIX on maps"])
def test_the_default_compiler_ends_with_nearly_the_same_weights(method: str, tmp_path: Path) -> None:
    plain, _ = fitted(method, tmp_path, False)
    with torch._inductor.config.patch(fallback_random=True):  # its own dropout draws other numbers
        compiled, _ = fitted(method, tmp_path, True)
    assert_close(compiled.state_dict(), plain.state_dict(), 1e-4)


def test_checkpoints_and_exports_of_compiled_networks_fit_plain_ones(tmp_path: Path) -> None:
    export = StudentExport(onnx=False)
    module, trainer = fitted("KD", tmp_path, "eager", callbacks=[export], logger=[pl.loggers.CSVLogger(tmp_path)])
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    other = make("KD", student=network("KD", 4))
    quiet_trainer(tmp_path).validate(other, ToyData(), ckpt_path=tmp_path / "x.ckpt", verbose=False)
    assert_close(other.state_dict(), module.state_dict(), 0.0)
    taught = make("KD", teacher=Net(4), teacher_inputs=["x_b"], teacher_checkpoint=tmp_path / "x.ckpt", student=Net(4))
    assert taught.teacher is not None
    assert module.student is not None
    assert_close(dict(taught.teacher.state_dict()), dict(module.student.state_dict()), 0.0)
    (written,) = tmp_path.rglob("student.safetensors")
    Net(4).load_state_dict(load_file(written))


def test_a_compiled_teacher_is_cached_as_a_plain_one(tmp_path: Path) -> None:
    module = make("hint and relations", compile="eager", cache_teacher=tmp_path / "cache")
    quiet_trainer(tmp_path).fit(module, ToyData())
    again = make("hint and relations", cache_teacher=tmp_path / "cache")
    quiet_trainer(tmp_path).fit(again, ToyData())
    assert len([*(tmp_path / "cache").iterdir()]) == 1


def test_nothing_is_compiled_for_the_small_batch_that_setup_tries(tmp_path: Path) -> None:
    fitted("KD", tmp_path, "eager", max_epochs=0, num_sanity_val_steps=0)
    assert not counters["stats"]


def test_an_unknown_compiler_is_named() -> None:
    with pytest.raises(ValueError, match="compile must be true, false or a backend of torch, got 'gcc'"):
        make("KD", compile="gcc")


@pytest.mark.gpu
def test_compiled_networks_are_faster_on_a_gpu() -> None:
    x = torch.randn(256, 3, 32, 32, device="cuda")
    plain, compiled = (ResNet32x4(100).cuda().eval() for _ in range(2))
    compiled.compile()
    with torch.no_grad():
        assert milliseconds(lambda: compiled(x)) < milliseconds(lambda: plain(x))
