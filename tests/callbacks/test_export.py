from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from callbacks import StudentExport, export
from distill import Classification, Supervised
from distill.checkpoint import load_network, load_weights
from tests.callbacks.pairs import CLASSES, Imitation, linear, loader, sgd, supervised, trainer


class TwoInputs(nn.Module):
    """Returns a mapping as Hugging Face's networks do, and predicts otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, CLASSES)
        self.norm = nn.BatchNorm1d(CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_a: Tensor, x_b: Tensor) -> dict[str, Tensor]:
        return {"logits": self.norm(self.dropout(self.layer(torch.cat([x_a, 2 * x_b], 1))))}


class Branching(nn.Module):
    """What it computes depends on the values it sees, which no exporter can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x + 1
        logits: Tensor = self.layer(x)
        return logits


class Random(nn.Module):
    """Predicts something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        return logits + torch.rand_like(logits)


@dataclass
class Exported:
    folder: Path
    module: Imitation
    best: Path
    weights: list[dict[str, Tensor]]  # before and after
    modes: list[list[bool]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A fit whose best epoch is the first, so that best and last weights differ."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    module = Imitation(
        teacher=linear(1).eval(),
        student=TwoInputs(),
        task=Classification(CLASSES),
        teacher_inputs=["x_a"],
        student_inputs=["x_a", "x_b"],
        student_layers=["layer"],
        optimizer=sgd,
    )
    best = ModelCheckpoint(folder, "best", monitor="train/loss", mode="max", save_on_train_epoch_end=True)
    last = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True)
    weights, modes = [], []

    class Observed(StudentExport):
        def on_fit_end(self, *args: Any) -> None:
            self.observe()
            super().on_fit_end(*args)
            self.observe()

        def observe(self) -> None:
            weights.append(copy.deepcopy(module.state_dict()))
            modes.append([part.training for part in module.modules()])

    run = trainer(folder, last, best, Observed(), max_epochs=3, enable_checkpointing=True)
    run.fit(module, loader(32), loader(8))
    return Exported(folder / "run", module, folder / "best.ckpt", weights, modes)


def test_safetensors_hold_the_best_students_weights(exported: Exported) -> None:
    student, best = TwoInputs().eval(), TwoInputs().eval()
    load_network(student, exported.folder / "student.safetensors")
    load_network(best, exported.best)
    inputs = torch.randn(5, 6), torch.randn(5, 6)
    torch.testing.assert_close(student(*inputs), best(*inputs), rtol=0, atol=0)
    assert not torch.equal(student(*inputs)["logits"], exported.module.eval()(*inputs))


@pytest.mark.parametrize("size", [1, 7])
def test_onnx_takes_modalities_by_name_in_any_batch_size(exported: Exported, size: int) -> None:
    student = TwoInputs().eval()
    load_network(student, exported.folder / "student.safetensors")
    session = onnxruntime.InferenceSession(exported.folder / "student.onnx", providers=["CPUExecutionProvider"])
    x_a, x_b = torch.randn(size, 6), torch.randn(size, 6)
    (prediction,) = session.run(["prediction"], {"x_b": x_b.numpy(), "x_a": x_a.numpy()})
    np.testing.assert_allclose(prediction, student(x_a, x_b)["logits"].detach().numpy(), atol=1e-5)
    assert [given.name for given in session.get_inputs()] == ["x_a", "x_b"]
    assert session.get_inputs()[0].shape == ["batch", 6]


def test_the_trained_module_is_left_as_it_was(exported: Exported) -> None:
    before, after = exported.weights
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not torch.equal(after["network.layer.weight"], load_weights(exported.best)["layer.weight"])
    assert exported.modes[0] == exported.modes[1]
    assert any(exported.modes[0])


def test_the_export_leaves_no_other_file(exported: Exported) -> None:
    assert {path.name for path in exported.folder.glob("*student*")} == {"student.safetensors", "student.onnx"}
    assert not list(exported.folder.glob(".*"))


def test_without_a_monitored_metric_the_last_weights_are_exported(tmp_path: Path) -> None:
    module = supervised()
    every = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=2)
    run = trainer(tmp_path, StudentExport(onnx=False), every, max_epochs=3, enable_checkpointing=True)
    run.fit(module, loader(16), loader(8))
    assert module.network is not None
    torch.testing.assert_close(
        load_weights(tmp_path / "run" / "student.safetensors"), module.network.state_dict(), rtol=0, atol=0
    )
    assert not (tmp_path / "run" / "student.onnx").exists()


def test_a_best_checkpoint_that_is_gone_is_told(tmp_path: Path) -> None:
    class Lost(ModelCheckpoint):
        def on_train_end(self, *args: Any) -> None:
            Path(self.best_model_path).unlink()

    lost = Lost(tmp_path, "best", monitor="val/hard")
    run = trainer(tmp_path, StudentExport(onnx=False), lost, enable_checkpointing=True)
    with pytest.warns(UserWarning, match=r"best\.ckpt is no file here: the exported student has the last weights"):
        run.fit(supervised(), loader(16), loader(8))
    assert (tmp_path / "run" / "student.safetensors").exists()


def test_a_missing_package_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("a_package_that_nobody_has",))
    run = trainer(tmp_path, StudentExport(onnx=True))
    with pytest.raises(ValueError, match=r"needs a_package_that_nobody_has: pip install 'crossdistill\[onnx\]'"):
        run.fit(supervised(), loader(16), loader(8))
    assert run.global_step == 0


def test_without_its_packages_onnx_is_left_out_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("a_package_that_nobody_has",))
    trainer(tmp_path, StudentExport()).fit(supervised(), loader(16), loader(8))
    assert {path.name for path in (tmp_path / "run").glob("student.*")} == {"student.safetensors"}


def test_a_network_that_cannot_be_exported_ends_in_one_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "student.onnx").write_text("of an earlier fit")
    module = Supervised(Branching(), Classification(CLASSES), ["x_b"], sgd)
    with pytest.warns(UserWarning, match=r"Branching cannot be exported to ONNX.*: .*data-dependent") as caught:
        trainer(tmp_path, StudentExport(), max_epochs=1).fit(module, loader(16), loader(8))
    assert len([warning for warning in caught if "Branching" in str(warning.message)]) == 1
    assert {path.name for path in run_folder.glob("student.*")} == {"student.safetensors"}
    printed = capfd.readouterr()
    assert "GraphModule" not in printed.out + printed.err
    assert "[torch.onnx]" not in printed.out + printed.err


def test_an_export_that_predicts_something_else_is_an_error_and_no_file(tmp_path: Path) -> None:
    module = Supervised(Random(), Classification(CLASSES), ["x_b"], sgd)
    with pytest.raises(ValueError, match=r"student.onnx is not written: on a real batch it differs from PyTorch by"):
        trainer(tmp_path, StudentExport(), max_epochs=1).fit(module, loader(16))
    assert {path.name for path in (tmp_path / "run").glob("student.*")} == {"student.safetensors"}


def test_a_trial_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer(tmp_path, StudentExport(), fast_dev_run=True, logger=None).fit(supervised(), loader(16), loader(8))
    assert not list(tmp_path.rglob("student.*"))


def test_a_tolerance_that_nothing_meets_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        StudentExport(tolerance=0)
