"""The losses that a fit logs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from distill import Batch, NetworkOutput, Supervised
from distill.errors import UserError
from distill.losses import dkd_loss
from distill.methods import DKD, KD
from distill.training.gradients import GradientWatch, _WatchedGradients
from distill.training.losses import LossWatch, TrainingLosses
from tests.toys import ToyData, make_batch, pair_arguments, quiet_trainer


def test_logged_losses_are_means_over_the_samples_of_the_epoch_for_batches_of_any_size(tmp_path: Path) -> None:
    batch = make_batch(10)
    teacher, student = nn.Linear(6, 4), nn.Linear(4, 4)
    arguments = pair_arguments(teacher=teacher.eval(), student=student, teacher_inputs=["x_a"])
    arguments["optimizer"] = partial(torch.optim.SGD, lr=0.0)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(DKD(**arguments, warmup_epochs=2), ToyData(batch, batch_size=4))  # half the weight in the first epoch
    logged = trainer.callback_metrics
    expected = dkd_loss(student(batch["x_b"]), teacher(batch["x_a"]), batch["target"]).item()
    assert float(logged["train/tckd"] + logged["train/nckd"]) == pytest.approx(expected, rel=1e-5)
    assert float(logged["train/loss"] - logged["train/hard"]) == pytest.approx(expected, rel=1e-5)


class EndsItself(KD):
    def on_train_epoch_end(self) -> None:
        self.log("mine", 1.0)


def test_a_module_that_overrides_the_end_of_the_epoch_still_logs_its_losses(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(EndsItself(**pair_arguments()), ToyData())
    assert {"mine", "train/loss", "train/hard", "train/kd"} <= trainer.callback_metrics.keys()


class Plain(LightningModule):
    """A module of somebody else, which has no network of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss: Tensor = self.head(batch["x_b"]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_that_has_fitted_a_method_fits_another_kind_of_module_next(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(KD(**pair_arguments()), ToyData(make_batch(8)))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Plain(), ToyData(make_batch(9)).train_dataloader())
    assert trainer.current_epoch == 2
    assert trainer.state.finished


class ValidationLosses(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(float(trainer.callback_metrics["val/loss"]))


def test_the_validation_loss_does_not_move_with_the_warm_up(tmp_path: Path) -> None:
    arguments = pair_arguments(student=nn.Linear(4, 4), optimizer=partial(torch.optim.SGD, lr=0.0))
    losses = ValidationLosses()
    quiet_trainer(tmp_path, callbacks=[losses]).fit(DKD(**arguments, warmup_epochs=20), ToyData())
    _, *of_epochs = losses.seen  # the first is of the sanity check, on two batches
    assert len(of_epochs) == 2
    assert len(set(of_epochs)) == 1


class Root(KD):
    """A term that is 0 at the third step, where its square root has no derivative."""

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        return {"root": (student.prediction * (self.global_step < 2)).square().sum(1).sqrt()}


def test_gradients_that_are_not_finite_end_the_fit_before_they_reach_the_weights(tmp_path: Path) -> None:
    module = Root(**pair_arguments())
    with pytest.raises(UserError, match=r"gradient of 'network.first.weight' and 5 more parameters is NaN.*step 2"):
        quiet_trainer(tmp_path).fit(module, ToyData())
    assert all(weight.isfinite().all() for weight in module.parameters())


def test_a_watch_names_the_parameter_and_reads_sparse_gradients() -> None:
    watch = GradientWatch()
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.tensor([[1.0, torch.inf]])
    layer.bias.grad = torch.zeros(1)
    with pytest.raises(UserError, match="gradient of 'weight' is NaN or infinite now"):
        watch.watch(layer, when="now")
    watch.check()  # once only
    layer.weight.grad = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.tensor([torch.nan]), (1, 2))
    with pytest.raises(UserError, match="'weight'"):
        watch.watch(layer, when="now")
    layer.weight.grad = None
    watch.watch(layer, when="now")


def test_a_gradient_that_is_read_a_step_later_is_named_before_the_loss_that_it_spoils() -> None:
    losses = TrainingLosses()
    losses._gradients._watched = _WatchedGradients(torch.tensor([False]), None, ["weight"], "in epoch 0, step 3")
    losses._watch.watch(torch.tensor(torch.nan), {}, make_batch())
    trainer: Any = SimpleNamespace(current_epoch=0, global_step=4)
    with pytest.raises(UserError, match=r"gradient of 'weight' is NaN or infinite in epoch 0, step 3"):
        losses.on_after_backward(trainer, Plain())


class Calibrated(Supervised):
    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(*inputs).flip(1)


def test_validation_and_test_score_one_prediction_also_of_a_subclass_with_its_own(tmp_path: Path) -> None:
    arguments = pair_arguments()
    module = Calibrated(arguments["student"], arguments["task"], ["x_b"], arguments["optimizer"])
    trainer = quiet_trainer(tmp_path)
    (validated,) = trainer.validate(module, ToyData(), verbose=False)
    (tested,) = trainer.test(module, ToyData(), verbose=False)
    assert validated["val/hard"] == tested["test/hard"]
    assert validated["val/loss"] == pytest.approx(tested["test/hard"], rel=1e-5)


def test_without_an_index_the_rows_of_the_whole_batch_are_named_where_samples_lack_a_modality() -> None:
    x = torch.tensor([[0.0], [0.0], [torch.nan]])
    watch, batch = LossWatch(), {"x": x, "x_present": torch.tensor([False, True, True])}
    watch.watch(torch.tensor(torch.nan), {}, batch, ["x"])
    with pytest.raises(ValueError, match=r"'x' is not finite in samples? 2 of the batch"):
        watch.check(nn.Linear(1, 1), when="now")
