"""What FitNet, FT and FSP have in common: a first stage within a fit."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from distill import DistillationModule
from distill.methods import FT, KD, Combined, FitNet
from distill.methods.parts.staged import StagedDistillation
from tests.methods.examples import TWO_PAIRS
from tests.methods.parts.stages import weights_after_each_epoch
from tests.toys import ON_MAPS, ToyData, make, pair_arguments, quiet_trainer

every_staged_method = pytest.mark.parametrize("method", [name + ON_MAPS for name in ("FitNet", "FT", "FSP")])


@every_staged_method
def test_a_run_resumed_in_either_stage_ends_as_one_never_stopped(method: str, tmp_path: Path) -> None:
    def fit(epochs: int, name: str, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        pl.seed_everything(3, verbose=False)
        module = make(method)
        assert isinstance(module, StagedDistillation)
        module.stage_one_epochs = 2
        last = ModelCheckpoint(tmp_path / name, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        trainer = quiet_trainer(tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=[last])
        trainer.fit(module, ToyData(method=method), ckpt_path=ckpt_path)
        return copy.deepcopy(module.state_dict())

    whole = fit(4, "whole")
    for epoch in (0, 2):  # the first of the first stage, the first of the second
        torch.rand(7)
        resumed = fit(4, f"resumed-{epoch}", tmp_path / "whole" / f"epoch={epoch}.ckpt")
        for name, value in whole.items():
            assert torch.equal(value, resumed[name]), (epoch, name)


@every_staged_method
def test_the_hard_loss_is_left_out_of_the_first_stage(method: str, tmp_path: Path) -> None:
    module = make(method, hard_weight=0.5)
    assert module.current_hard_weight == 0.0
    quiet_trainer(tmp_path).fit(module, ToyData(method=method))
    assert module.current_hard_weight == 0.5


def test_the_second_stage_starts_with_a_fresh_optimiser(tmp_path: Path) -> None:
    optimizer = partial(torch.optim.AdamW, lr=0.01)
    module = FitNet(**pair_arguments(optimizer=optimizer), **TWO_PAIRS, stage_one_epochs=2)
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(module, ToyData())
    steps = trainer.optimizers[0].state[module.get_parameter("network.first.weight")]["step"]
    assert steps == trainer.num_training_batches


def test_in_a_combination_the_other_parts_and_the_hard_loss_go_on_beside_the_first_stage(tmp_path: Path) -> None:
    part = FitNet(teacher_layers=["norm"], student_layers=["norm"], stage_one_epochs=1, weight=1.0)
    module = Combined(**pair_arguments(), methods={"fitnet": part})
    start, first, second = weights_after_each_epoch(module, tmp_path)
    assert not torch.equal(start["network.head.weight"], first["network.head.weight"])
    regressor = "methods.fitnet.regressors.0.convolution.weight"
    assert not torch.equal(start[regressor], first[regressor])
    assert torch.equal(first[regressor], second[regressor])


def test_weight_decay_moves_nothing_that_a_stage_leaves_alone(tmp_path: Path) -> None:
    optimizer = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5)
    module = FT(**pair_arguments(optimizer=optimizer), **TWO_PAIRS, stage_one_epochs=1)
    start, first, second = weights_after_each_epoch(module, tmp_path)
    assert torch.equal(start["network.first.weight"], first["network.first.weight"])
    assert torch.equal(first["encoders.0.layers.0.weight"], second["encoders.0.layers.0.weight"])


def alone_or_in_a_combination(combined: bool, **options: int) -> DistillationModule:
    if not combined:
        return FT(**pair_arguments(), **TWO_PAIRS, **options)
    inner = Combined(methods={"ft": FT(**TWO_PAIRS, **options)})
    return Combined(**pair_arguments(), methods={"kd": KD(), "inner": inner})


def test_there_is_a_first_stage() -> None:
    with pytest.raises(ValueError, match="stage_one_epochs must be at least 1, got 0"):
        FT(**TWO_PAIRS, stage_one_epochs=0)


@pytest.mark.parametrize("combined", [False, True])
def test_a_first_stage_that_leaves_no_second_one_is_refused_with_values_that_work(
    combined: bool, tmp_path: Path
) -> None:
    module = alone_or_in_a_combination(combined, stage_one_epochs=2)
    sentence = "FT has stage_one_epochs=2, which leaves none of max_epochs={} for its second stage: give max_epochs=3"
    for epochs, rest in ((2, " or more, or stage_one_epochs=1 or less$"), (1, " or more$")):
        with pytest.raises(ValueError, match=sentence.format(epochs) + rest):
            quiet_trainer(tmp_path, max_epochs=epochs).fit(module, ToyData())


@pytest.mark.parametrize("combined", [False, True])
def test_no_callback_may_compare_the_losses_of_two_stages(combined: bool, tmp_path: Path) -> None:
    module = alone_or_in_a_combination(combined, stage_one_epochs=1)
    trainer = quiet_trainer(tmp_path, callbacks=[EarlyStopping("val/loss")])
    with pytest.raises(ValueError, match="EarlyStopping monitors val/loss, but FT has another loss in each of its"):
        trainer.fit(module, ToyData())


@pytest.mark.parametrize("combined", [False, True])
def test_ddp_must_allow_for_parameters_that_a_stage_leaves_alone(combined: bool, tmp_path: Path) -> None:
    module = alone_or_in_a_combination(combined, stage_one_epochs=1)
    module.trainer = quiet_trainer(tmp_path, strategy="ddp", devices=1)
    with pytest.raises(ValueError, match=r"FT trains other parameters in each of its stages: give --trainer\.strategy"):
        module.prepare("fit")
