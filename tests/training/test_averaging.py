"""Weight averaging: the weights that are scored are those that are saved, tested and deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn

from callbacks import StudentExport
from distill.checkpoint import load_weights
from distill.command.checkpoints import BestCheckpoint
from distill.internals.lightning import averaged_copy
from distill.methods import FitNet
from distill.resume.last_checkpoint import LastCheckpoint
from tests.toys import Net, ToyData, make_batch, network, pair_arguments, quiet_trainer

BATCH = make_batch(12)
TABLE = torch.arange(30000)


class WithTable(Net):
    """A network with a table of positions, as a Swin Transformer has one."""

    def __init__(self) -> None:
        super().__init__(4)
        self.register_buffer("table", TABLE.clone())


class WithoutNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.head = nn.Linear(6, 4)


def head_of(module: pl.LightningModule) -> Tensor:
    return module.get_parameter("network.head.weight").detach().clone()


class Weights(Callback):
    """Keeps the trained weights at the start of each epoch and after the last one."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(head_of(pl_module))


class Killed(Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("killed")


def fit(
    folder: Path, *callbacks: Callback, student: nn.Module | None = None, resumed: bool = False
) -> tuple[FitNet, pl.Trainer]:
    """A fit of four epochs of a method whose regressor is lazy."""
    pl.seed_everything(3, verbose=False)
    arguments = pair_arguments(student=student or network("", 4))
    module = FitNet(**arguments, teacher_layers=["first"], student_layers=["first"], stage_one_epochs=1)
    checkpoints = [BestCheckpoint(folder, "val/hard", "min"), LastCheckpoint(folder)]
    trainer = quiet_trainer(folder, max_epochs=4, enable_checkpointing=True, callbacks=[*callbacks, *checkpoints])
    last = folder / "checkpoints/last.ckpt" if resumed else None
    trainer.fit(module, ToyData(BATCH), ckpt_path=last)
    return module, trainer


def test_averages_of_integers_do_not_drift(tmp_path: Path) -> None:
    # with this decay, the average of 20000 and 20000 is 19999 in float32
    module, _ = fit(tmp_path, EMAWeightAveraging(decay=0.9999), student=WithTable())
    assert module.network is not None
    assert torch.equal(module.network.table, TABLE)  # type: ignore[arg-type]
    for name in ("best", "last"):
        assert torch.equal(load_weights(tmp_path / f"checkpoints/{name}.ckpt")["table"], TABLE)


def test_the_average_over_epochs_is_the_mean_of_their_weights_and_is_what_is_kept_and_exported(tmp_path: Path) -> None:
    weights = Weights()
    average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2)
    module, trainer = fit(tmp_path, weights, average, StudentExport(onnx=False), student=WithoutNorm())
    expected = torch.stack(weights.seen[1:]).mean(0)
    torch.testing.assert_close(head_of(module), expected)
    for path in ("checkpoints/best.ckpt", "student.safetensors"):
        torch.testing.assert_close(load_weights(tmp_path / path)["head.weight"], expected)
    trainer.test(module, ToyData(BATCH), ckpt_path=tmp_path / "checkpoints/best.ckpt", verbose=False)
    torch.testing.assert_close(head_of(module), expected)


@pytest.mark.parametrize(
    "average", [lambda: EMAWeightAveraging(decay=0.5), lambda: StochasticWeightAveraging(0.05, swa_epoch_start=2)]
)
def test_a_killed_fit_with_averages_resumes_to_the_same_averages(average: Any, tmp_path: Path) -> None:
    whole, _ = fit(tmp_path / "whole", average())
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "parts", average(), Killed())
    parts, _ = fit(tmp_path / "parts", average(), resumed=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    best = [load_weights(tmp_path / part / "checkpoints/best.ckpt") for part in ("whole", "parts")]
    assert all(torch.equal(value, best[1][name]) for name, value in best[0].items())


def test_a_validation_after_the_fit_scores_the_checkpoint_that_it_names(tmp_path: Path) -> None:
    module, trainer = fit(tmp_path, EMAWeightAveraging(decay=0.5))
    checkpoint = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["state_dict"] = {name: torch.zeros_like(value) for name, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, tmp_path / "zero.ckpt")
    (scores,) = trainer.validate(module, ToyData(BATCH), ckpt_path=tmp_path / "zero.ckpt", verbose=False)
    assert scores["val/hard"] == pytest.approx(torch.tensor(4.0).log().item())


def test_before_the_first_average_the_trained_weights_are_scored_saved_and_delivered(tmp_path: Path) -> None:
    module, _ = fit(tmp_path / "late", EMAWeightAveraging(decay=0.5, update_starting_at_step=1000))
    plain, _ = fit(tmp_path / "plain")
    for name, value in plain.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name
    best = [load_weights(tmp_path / part / "checkpoints/best.ckpt") for part in ("late", "plain")]
    assert all(torch.equal(value, best[1][name]) for name, value in best[0].items())


class CopiedTeacher(Callback):
    def __init__(self, average: EMAWeightAveraging | StochasticWeightAveraging) -> None:
        self.average = average
        self.copied: list[Any] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert pl_module.teacher is not None
        self.copied.append(getattr(averaged_copy(self.average), "teacher", None))


@pytest.mark.parametrize("average", [EMAWeightAveraging(), StochasticWeightAveraging(0.05, swa_epoch_start=2)])
def test_the_teacher_is_not_held_twice(average: Any, tmp_path: Path) -> None:
    watch = CopiedTeacher(average)
    fit(tmp_path, average, watch)
    assert watch.copied == [None]
