"""What the base class promises for every method; a method joins by being in ``distill.methods``."""

from __future__ import annotations

import copy
import math
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distill import Batch, DistillationModule
from distill.batches import chosen_samples
from distill.command.checkpoints import BestCheckpoint
from distill.distributed import held_out
from distill.methods.parts.staged import StagedDistillation
from distill.resume.last_checkpoint import LastCheckpoint
from tests.methods.examples import HintAndRelations
from tests.processes import run_in_processes
from tests.toys import (
    CLASSES,
    METHODS,
    ON_DEPTH,
    Net,
    Samples,
    ToyData,
    ignored,
    make,
    make_batch,
    network,
    pair_arguments,
    positions,
    prepared,
    quiet_trainer,
)

every_method = pytest.mark.parametrize("method", METHODS)
COMPARE_ALL = ("ALKD", "CWD", "Combined on maps")
"""These compare the logits of all positions, labelled or not."""


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def step(module: DistillationModule, batch: Batch) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are trying to `self.log")
        return module.training_step(batch, 0)


class Stop(Callback):
    """Kills a fit in the second step of an epoch, or asks it to stop there."""

    def __init__(self, kills: int = -1, asks: int = -1) -> None:
        self.kills = kills
        self.asks = asks

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, index: int) -> None:
        if trainer.current_epoch == self.kills and index == 1:
            raise RuntimeError("killed")
        if trainer.current_epoch == self.asks and index == 1:
            signal.raise_signal(signal.SIGTERM)


@dataclass
class Fit:
    """A fit of four epochs, and what the two networks held before it."""

    method: str
    folder: Path
    module: DistillationModule
    trainer: pl.Trainer
    teacher: dict[str, Tensor]
    student: dict[str, Tensor]

    def run(self, ckpt_path: Path | None = None) -> None:
        self.trainer.fit(self.module, ToyData(method=self.method), ckpt_path=ckpt_path)


def seeded_fit(method: str, folder: Path, **stop: int) -> Fit:
    """One that starts from the same random state every time."""
    pl.seed_everything(3, verbose=False)
    module = make(method, hard_weight=0.25, lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5))
    assert module.teacher is not None
    assert module.network is not None
    callbacks = [LastCheckpoint(folder), Stop(**stop)]
    trainer = quiet_trainer(folder, max_epochs=4, enable_checkpointing=True, callbacks=callbacks)
    return Fit(method, folder, module, trainer, weights_of(module.teacher), weights_of(module.network))


@pytest.fixture(scope="module", params=METHODS)
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """The one fit of each method that many tests look at; they change nothing of it."""
    fit = seeded_fit(request.param, tmp_path_factory.mktemp("fitted"))
    fit.run()
    return fit


def test_teacher_stays_in_eval_mode_without_gradients_and_its_buffers_do_not_move(fitted: Fit) -> None:
    teacher = fitted.module.teacher
    assert teacher is not None
    fitted.module.train()
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert_same(fitted.teacher, weights_of(teacher))


def test_student_learns_and_its_buffers_move(fitted: Fit) -> None:
    assert fitted.module.network is not None
    after = weights_of(fitted.module.network)
    for name in ("first.weight", "head.weight", "norm.running_mean"):
        assert not torch.equal(fitted.student[name], after[name])


def test_checkpoint_holds_student_and_adaptors_but_no_teacher(fitted: Fit, tmp_path: Path) -> None:
    module, method = fitted.module, fitted.method
    fitted.trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == module.state_dict().keys()
    assert {name for name, _ in module.named_parameters()} <= saved.keys()
    assert not any("teacher." in name for name in saved)

    other = make(method, student=network(method, 4))
    quiet_trainer(tmp_path).validate(other, ToyData(method=method), ckpt_path=tmp_path / "x.ckpt", verbose=False)
    assert_same(module.state_dict(), other.state_dict())
    assert other.teacher is not None
    assert module.teacher is not None
    assert_same(weights_of(module.teacher), weights_of(other.teacher))


@every_method
def test_a_fit_with_averaged_weights_keeps_the_weights_that_it_scored(method: str, tmp_path: Path) -> None:
    module = make(method)
    two_stages = any(isinstance(part, StagedDistillation) for part in module.modules())
    monitor = "val/hard" if two_stages else "val/loss"
    best = BestCheckpoint(tmp_path, monitor, "min")
    trainer = quiet_trainer(tmp_path, enable_checkpointing=True, callbacks=[EMAWeightAveraging(decay=0.5), best])
    trainer.fit(module, ToyData(method=method))
    path = tmp_path / "checkpoints/best.ckpt"
    (scores,) = quiet_trainer(tmp_path).validate(make(method), ToyData(method=method), ckpt_path=path, verbose=False)
    assert scores[monitor] == pytest.approx(float(best.best_model_score or 0), rel=1e-6)


@every_method
def test_a_fit_that_averages_over_epochs_keeps_the_average(method: str, tmp_path: Path) -> None:
    callbacks = [StochasticWeightAveraging(0.05, swa_epoch_start=1), BestCheckpoint(tmp_path, "val/hard", "min")]
    module = make(method)
    quiet_trainer(tmp_path, enable_checkpointing=True, callbacks=callbacks).fit(module, ToyData(method=method))
    saved = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert_same(saved, module.state_dict())


@every_method
def test_validation_logs_the_loss_and_its_terms_and_changes_nothing(method: str, tmp_path: Path) -> None:
    module = prepared(make(method))
    data = ToyData(method=method)
    trainer = quiet_trainer(tmp_path)
    module.eval()
    before = weights_of(module)
    with torch.no_grad(), held_out():
        batches = [(len(batch["x_b"]), *module.training_losses(batch)[:2]) for batch in data.val_dataloader()]
    (logged,) = trainer.validate(module, data, verbose=False)
    samples = sum(size for size, _, _ in batches)
    for name in ("loss", *batches[0][2]):
        values = [(size, loss if name == "loss" else terms[name]) for size, loss, terms in batches]
        expected = sum(size * float(value) for size, value in values) / samples
        assert logged[f"val/{name}"] == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    assert_same(before, weights_of(module))


def test_optimiser_has_student_and_adaptors_but_no_teacher(fitted: Fit) -> None:
    optimised = {id(p) for group in fitted.trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(parameter) for parameter in fitted.module.parameters() if parameter.requires_grad}
    assert fitted.module.teacher is not None
    assert optimised.isdisjoint(id(parameter) for parameter in fitted.module.teacher.parameters())


def test_loss_is_the_weighted_hard_loss_plus_all_terms_and_each_is_logged(fitted: Fit) -> None:
    logged = {name: float(value) for name, value in fitted.trainer.callback_metrics.items()}
    terms = {name: value for name, value in logged.items() if name not in ("train/loss", "train/hard")}
    terms = {name: value for name, value in terms.items() if name.startswith("train/")}
    assert len(terms) >= 1
    assert logged["train/loss"] == pytest.approx(0.25 * logged["train/hard"] + sum(terms.values()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_stopped_and_resumed_run_ends_with_the_same_weights(fitted: Fit, tmp_path: Path) -> None:
    last = tmp_path / "checkpoints/last.ckpt"
    with pytest.raises(SIGTERMException):
        seeded_fit(fitted.method, tmp_path, asks=1).run()
    assert torch.load(last, weights_only=True)["global_step"] == 3 + 2
    torch.rand(7)  # the second process starts from another random state
    with pytest.raises(RuntimeError, match="killed"):
        seeded_fit(fitted.method, tmp_path, kills=3).run(last)
    torch.rand(7)
    resumed = seeded_fit(fitted.method, tmp_path)
    resumed.run(last)
    assert_same(weights_of(fitted.module), weights_of(resumed.module))


@every_method
def test_ddp_does_not_see_the_teacher(method: str) -> None:
    module = make(method)
    assert module.teacher is not None
    theirs = {id(tensor) for tensor in [*module.teacher.parameters(), *module.teacher.buffers()]}
    assert theirs.isdisjoint(id(tensor) for tensor in [*module.parameters(), *module.buffers()])


@every_method
def test_teacher_follows_to_another_dtype(method: str) -> None:
    module = prepared(make(method)).double()
    assert module.teacher is not None
    assert {parameter.dtype for parameter in module.teacher.parameters()} == {torch.float64}
    batch = {name: x.double() if x.is_floating_point() else x for name, x in make_batch(method=method).items()}
    assert step(module, batch)["loss"].dtype == torch.float64


@every_method
def test_calling_the_module_is_the_student_alone(method: str) -> None:
    module = make(method).eval()
    assert module.teacher is not None
    module.teacher.register_forward_hook(lambda *_: pytest.fail("the teacher ran"))
    batch = make_batch(method=method)
    assert module.network is not None
    expected = module.network(batch["x_b"])
    assert torch.equal(module(batch["x_b"]), expected)
    assert torch.equal(module.predict_step(batch, 0)["prediction"], expected)


@every_method
def test_distillation_step_is_a_pure_function(method: str) -> None:
    module = prepared(make(method))
    batch = make_batch(method=method)
    teacher, student = module.forward_both(batch)
    before = weights_of(module)
    first, second = (module.distillation_step(teacher, student, batch) for _ in range(2))
    assert_same(first, second)
    assert_same(before, weights_of(module))


@every_method
def test_steps_return_both_predictions_detached(method: str) -> None:
    module = prepared(make(method))
    batch = make_batch(method=method)
    output = step(module, batch)
    assert output["loss"].requires_grad
    for name in ("prediction", "teacher_prediction"):
        assert output[name].shape == (6, 1 if method.endswith(ON_DEPTH) else CLASSES, *positions(method))
        assert not output[name].requires_grad
    assert [x.data_ptr() for x in output["teacher_inputs"]] == [batch["x_a"].data_ptr(), batch["x_b"].data_ptr()]
    assert [x.data_ptr() for x in output["inputs"]] == [batch["x_b"].data_ptr()]


@every_method
def test_losses_are_float32_under_autocast(method: str) -> None:
    module = prepared(make(method))
    seen: list[torch.dtype] = []
    inner = module.distillation_step

    def spy(*args: Any) -> dict[str, Tensor]:
        terms = inner(*args)
        seen.extend(value.dtype for value in terms.values())
        flat = args[1].prediction.flatten(1)
        seen.append((flat @ flat.T).dtype)
        return terms

    module.distillation_step = spy  # type: ignore[assignment,method-assign]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = step(module, make_batch(method=method))["loss"]
    assert {*seen, loss.dtype} == {torch.float32}


class Fixed(nn.Module):
    """Returns the same logits and features whatever it sees."""

    def __init__(self, logits: Tensor, feature: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.first, self.norm, self.head = (_Feature(feature.clone()) for _ in range(3))

    def forward(self, *inputs: Tensor) -> Tensor:
        count = len(inputs[0])
        for layer in (self.first, self.norm, self.head):
            layer(count)
        return self.logits[:count]


class _Feature(nn.Module):
    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.feature = nn.Parameter(feature)

    def forward(self, count: int) -> Tensor:
        return self.feature[:count]


@every_method
@pytest.mark.parametrize("case", ["gap of 1000", "zero features", "batch of one", "all ignored"])
def test_loss_and_gradients_stay_finite(method: str, case: str) -> None:
    size = positions(method)
    outputs = 1 if method.endswith(ON_DEPTH) else CLASSES
    logits, other = torch.zeros(6, outputs, *size), torch.zeros(6, outputs, *size)
    if case == "gap of 1000":
        logits[:, 0], other[:, -1] = 1000.0, 1000.0
    feature = torch.zeros(6, 5, *size) if case == "zero features" else torch.randn(6, 5, *size)
    batch = make_batch(1 if case == "batch of one" else 6, method=method)
    if case == "all ignored":
        batch["target"] = torch.full_like(batch["target"], ignored(method))
    networks = {"teacher": Fixed(other, feature).eval(), "student": Fixed(logits, feature)}
    module = prepared(make(method, **networks), batch)
    loss = step(module, batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    terms = module.distillation_step(*module.forward_both(batch), batch)
    of_relations = any(term.ndim == 0 for term in terms.values())  # they take all samples
    if case == "all ignored" and not of_relations and not method.endswith(ON_DEPTH):
        assert loss == 0


@pytest.mark.parametrize(
    "method", [name for name in METHODS if not name.startswith(COMPARE_ALL) and ON_DEPTH not in name]
)
@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_logits_at_ignored_positions_change_neither_loss_nor_gradients(method: str, strange: float) -> None:
    size = positions(method)
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 6, CLASSES, *size, generator=generator)
    feature = torch.randn(6, 5, *size, generator=generator)
    batch = make_batch(6, method=method)
    batch["target"][1] = ignored(method)
    results = []
    for value in (0.0, strange):
        both = (tensor.clone().index_fill_(0, torch.tensor(1), value) for tensor in (other, logits))
        teacher, student = (Fixed(tensor, feature) for tensor in both)
        module = prepared(make(method, teacher=teacher.eval(), student=student), batch)
        results.append(loss_and_gradients(module, batch, parallel=False))
    usual, odd = results
    assert usual.keys() == odd.keys()
    for name, values in usual.items():
        torch.testing.assert_close(odd[name], values, msg=partial("{}: {}".format, name))


def loss_and_gradients(module: DistillationModule, batch: Batch, *, parallel: bool) -> dict[str, Tensor]:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, batch: Batch) -> Tensor:
            loss: Tensor = self.module.training_step(batch, 0)["loss"]
            return loss

    run = DistributedDataParallel(Step(), find_unused_parameters=True) if parallel else Step()
    loss = run(batch)
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def whole_batch(method: str) -> Batch:
    batch = make_batch(7, method=method)
    batch["target"][1] = ignored(method)
    if positions(method):
        batch["target"][4:, ..., 1, :] = ignored(method)
    return {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}


def module_for_comparison(method: str) -> DistillationModule:
    # BatchNorm and dropout look at the local batch by design, so the student is in eval mode
    module = prepared(make(method))
    assert module.network is not None
    module.network.eval()
    return module.double()


def without_teacher_at(batch: Batch, rows: list[int]) -> Batch:
    """The batch, in which the teacher lacks a modality of these samples."""
    present = torch.ones(len(batch["x_a"]), dtype=torch.bool)
    present[rows] = False
    x_a = batch["x_a"].index_fill(0, torch.tensor(rows), torch.nan)
    return batch | {"x_a": x_a, "x_a_present": present}


def terms_and_gradients(module: DistillationModule, batch: Batch) -> dict[str, Tensor]:
    """The terms of a method without the hard loss, their gradients, and what the method remembers of the step."""
    terms = module.distillation_terms(*module.forward_both(batch), batch)
    torch.stack(list(terms.values())).sum().backward()
    module.after_backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in terms.items()} | gradients | dict(module.named_buffers())


@every_method
def test_samples_without_a_modality_of_the_teacher_do_not_count_in_any_term(method: str) -> None:
    batch = whole_batch(method)
    module, masked = module_for_comparison(method), without_teacher_at(batch, [2, 4])
    expected = terms_and_gradients(copy.deepcopy(module), chosen_samples(batch, [0, 1, 3, 5, 6]))
    seen: list[int] = []
    assert module.teacher is not None
    module.teacher.register_forward_hook(lambda layer, inputs, output: seen.append(len(inputs[0])))
    found = terms_and_gradients(module, masked)
    assert seen == [5]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)
    _, terms, outputs = module.training_losses(masked)
    if "hard" in terms:  # the student has what it needs of all samples
        student = module.forward_network(batch).prediction
        torch.testing.assert_close(terms["hard"], module.hard_loss(student, batch))
    assert outputs["present"].tolist() == masked["x_a_present"].tolist()
    assert outputs["teacher_prediction"].isnan().flatten(1).all(1).nonzero()[:, 0].tolist() == [2, 4]
    assert outputs["prediction"].isfinite().all()

    module.zero_grad()
    of_none = terms_and_gradients(module, without_teacher_at(batch, list(range(7))))
    assert not any(of_none[name].any() for name in of_none.keys() - dict(module.named_buffers()).keys())


@pytest.mark.parametrize("method", [method for method in METHODS if positions(method)])
def test_channels_may_come_last_in_memory(method: str) -> None:
    expected = loss_and_gradients(module_for_comparison(method), whole_batch(method), parallel=False)
    module = module_for_comparison(method).to(memory_format=torch.channels_last)
    batch = {
        name: values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values
        for name, values in whole_batch(method).items()
    }
    found = loss_and_gradients(module, batch, parallel=False)
    for output in module.forward_both(batch):
        for feature in (output.prediction, *output.features.values()):
            assert feature.is_contiguous(memory_format=torch.channels_last)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


REPRESENTATIVE = ["KD", "RKD", "CRD with queue", "LIX on maps", "Combined on maps"]
"""Means over samples, relations, a memory, and both on maps."""


LACKING = " where a teacher lacks a modality"
"""Of the sample of the second process, and of one of the third."""


def shares_of_some_methods(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    """The processes have 3, 1 and 3 samples; the second of the first is ignored."""
    rows = ([0, 1, 2], [3], [4, 5, 6])[rank]
    shares = {}
    for method in REPRESENTATIVE:
        batch = whole_batch(method)
        for case, whole in ((method, batch), (method + LACKING, without_teacher_at(batch, [3, 5]))):
            share = chosen_samples(whole, rows)
            shares[case] = loss_and_gradients(module_for_comparison(method), share, parallel=True)
    return shares


def shares_of_all_methods(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    """The first process has 5 samples, of which one is ignored, the second has 2."""
    rows = slice(0, 5) if rank == 0 else slice(5, 7)
    shares = {}
    for method in METHODS:
        batch = {name: values[rows] for name, values in whole_batch(method).items()}
        shares[method] = loss_and_gradients(module_for_comparison(method), batch, parallel=True)
    return shares


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("processes", "shares_of", "methods"),
    [
        (2, shares_of_all_methods, METHODS),
        (3, shares_of_some_methods, [*REPRESENTATIVE, *(method + LACKING for method in REPRESENTATIVE)]),
    ],
    ids=["two", "three"],
)
def test_processes_with_a_share_of_the_batch_each_equal_one_with_the_whole(
    processes: int, shares_of: Any, methods: list[str]
) -> None:
    shares = run_in_processes(shares_of, processes)
    for case in methods:
        method = case.removesuffix(LACKING)
        batch = whole_batch(method) if case == method else without_teacher_at(whole_batch(method), [3, 5])
        expected = loss_and_gradients(module_for_comparison(method), batch, parallel=False)
        loss = torch.stack([share[case]["loss"] for share in shares]).mean()
        found = shares[0][case] | {"loss": loss}
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=f"{case}: {name}")


def start(module: DistillationModule, data: ToyData, folder: Path) -> pl.Trainer:
    trainer = quiet_trainer(folder)
    trainer.fit(module, data)
    return trainer


@every_method
def test_unequal_class_counts_are_one_sentence_before_the_first_step(method: str, tmp_path: Path) -> None:
    module = make(method, teacher=network(method, 10, classes=5).eval())
    with pytest.raises(ValueError, match=r"teacher \w+ returns .*\(2, 5[^)]*\), but \w+\((num_classes=4)?\) takes"):
        start(module, ToyData(method=method), tmp_path)
    assert module.global_step == 0


@every_method
def test_a_missing_modality_is_named_with_those_there_are(method: str, tmp_path: Path) -> None:
    module = make(method, student_inputs=["radar"])
    with pytest.raises(KeyError, match=r"no modality 'radar'; it has 'x_a', 'x_b', 'target', 'index'"):
        start(module, ToyData(method=method), tmp_path)


def test_an_unknown_layer_is_named_with_similar_ones() -> None:
    with pytest.raises(KeyError, match=r"Net has no layer 'fist'; did you mean one of 'first'"):
        HintAndRelations(**pair_arguments(student_layers=["fist"]))


def test_shapes_that_a_method_cannot_compare_are_one_sentence(tmp_path: Path) -> None:
    class Subtract(DistillationModule):
        def distillation_step(self, teacher: Any, student: Any, batch: Batch) -> dict[str, Tensor]:
            return {"difference": (teacher.features["first"] - student.features["first"]).mean(1)}

    module = Subtract(
        **pair_arguments(teacher=Net(10, width=7).eval(), teacher_layers=["first"], student_layers=["first"])
    )
    with pytest.raises(ValueError, match=r"Subtract cannot compare .*first \(2, 7\), .* first \(2, 6\)"):
        start(module, ToyData(), tmp_path)


def test_labels_outside_the_range_are_named(tmp_path: Path) -> None:
    batch = make_batch(10)
    batch["target"][0] = 9
    with pytest.raises(ValueError, match="label 9, but the task has the classes 0 to 3"):
        start(make("KD"), ToyData(batch), tmp_path)


def test_data_and_task_with_other_class_counts_are_named(tmp_path: Path) -> None:
    data = ToyData()
    data.num_classes = 7
    with pytest.raises(ValueError, match=r"ToyData has 7 classes, but the task is Classification\(num_classes=4\)"):
        start(make("KD"), data, tmp_path)


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    class Empty(ToyData):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(Samples(make_batch(0)), 4)

    with pytest.raises(ValueError, match="data set to fit on is empty"):
        start(make("KD"), Empty(), tmp_path)


@pytest.mark.parametrize("missing", ["teacher", "student", "task", "optimizer"])
def test_what_a_fit_cannot_do_without_is_named(missing: str, tmp_path: Path) -> None:
    name = "network" if missing == "student" else missing
    with pytest.raises(ValueError, match=f"KD has no {name}"):
        start(make("KD", **{missing: None}), ToyData(), tmp_path)


@every_method
def test_setup_changes_neither_random_state_nor_weights_nor_modes(method: str, tmp_path: Path) -> None:
    module = prepared(make(method))
    assert module.network is not None
    module.network.get_submodule("norm").eval()
    before, modes = weights_of(module), [part.training for part in module.modules()]
    module.trainer = trainer = quiet_trainer(tmp_path)
    trainer.fit_loop._data_source.instance = ToyData(method=method).train_dataloader()
    trainer.datamodule = ToyData(method=method)  # type: ignore[attr-defined]
    state = torch.get_rng_state()
    module.setup("fit")
    assert torch.equal(state, torch.get_rng_state())
    assert_same(before, weights_of(module))
    assert modes == [part.training for part in module.modules()]


def test_teacher_and_student_must_not_share_parameters() -> None:
    net = Net(4)
    with pytest.raises(ValueError, match="share parameters"):
        make("KD", teacher=net, student=net)


def test_a_random_teacher_is_warned_of_and_a_loaded_one_is_not(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.warns(UserWarning, match="teacher Net has random weights"):
        start(make("KD", teacher=Net(10)), ToyData(), tmp_path)
    torch.save(Net(10).state_dict(), tmp_path / "teacher.pt")
    recwarn.clear()
    start(make("KD", teacher=Net(10), teacher_checkpoint=tmp_path / "teacher.pt"), ToyData(), tmp_path)
    assert not [w for w in recwarn if "random weights" in str(w.message)]


def test_without_a_teacher_the_student_is_still_tested(tmp_path: Path) -> None:
    (scores,) = quiet_trainer(tmp_path).test(make("KD", teacher=None), ToyData(), verbose=False)
    assert {"test/accuracy", "test/hard"} <= set(scores)
    assert not any("kd" in name for name in scores)


def test_copies_of_a_module_are_wired_to_themselves() -> None:
    module = prepared(make("hint and relations"))
    twin = copy.deepcopy(module)
    assert twin.teacher is not module.teacher
    assert twin.network is not None
    torch.nn.init.zeros_(twin.network.get_parameter("first.weight"))
    torch.nn.init.zeros_(twin.network.get_parameter("first.bias"))
    _, student = twin.forward_both(make_batch())
    assert not student.features["first"].any()


@every_method
def test_half_precision_weights_train_with_losses_in_float32(method: str, tmp_path: Path) -> None:
    module = make(method)
    trainer = quiet_trainer(tmp_path, precision="bf16-true")
    trainer.fit(module, ToyData(method=method))
    assert module.network is not None
    assert {parameter.dtype for parameter in module.network.parameters()} == {torch.bfloat16}
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32


class GradientsAreFinite(Callback):
    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        for name, parameter in module.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def scaled(net: nn.Module) -> nn.Module:
    """The network with the outputs of its layers, logits and features alike, a hundred times as large."""
    first, norm = net.get_submodule("first"), net.get_submodule("norm")
    with torch.no_grad():
        for parameter in (*first.parameters(), *norm.parameters()):
            parameter.mul_(100)
        norm.get_buffer("running_var").mul_(100**2)
    return net


def fit_scaled(method: str, folder: Path, precision: Any, accelerator: str, *callbacks: Callback) -> None:
    """Two epochs on logits and features scaled by 100, in steps that are too small to lead anywhere."""
    torch.manual_seed(3)
    networks = {"teacher": scaled(network(method, 10)).eval(), "student": scaled(network(method, 4))}
    module = make(method, **networks, optimizer=lambda parameters: torch.optim.SGD(parameters, 1e-9))
    settings: dict[str, Any] = {"accelerator": accelerator, "limit_val_batches": 1, "callbacks": [*callbacks]}
    trainer = quiet_trainer(folder, precision=precision, **settings)
    trainer.fit(module, ToyData(method=method))
    assert trainer.global_step >= 6
    for name, value in trainer.callback_metrics.items():
        assert name.startswith("val/") or torch.isfinite(value), name
    for name, weight in module.state_dict().items():
        assert torch.isfinite(weight).all(), name


@every_method
def test_mixed_precision_stays_finite_on_logits_and_features_scaled_by_100(method: str, tmp_path: Path) -> None:
    fit_scaled(method, tmp_path, "bf16-mixed", "cpu", GradientsAreFinite())


@pytest.mark.gpu
@every_method
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_on_a_gpu_stays_finite_on_logits_and_features_scaled_by_100(
    precision: str, method: str, tmp_path: Path
) -> None:
    # gradients may overflow in 16-mixed, which then skips the step and lowers its scale
    fit_scaled(method, tmp_path, precision, "gpu", *([GradientsAreFinite()] if precision == "bf16-mixed" else []))


@every_method
def test_a_module_that_was_validated_can_be_fitted_and_predicts(method: str, tmp_path: Path) -> None:
    module = make(method)
    trainer = quiet_trainer(tmp_path)
    trainer.validate(module, ToyData(method=method), verbose=False)
    trainer.fit(module, ToyData(method=method))
    predictions = trainer.predict(module, ToyData(method=method))
    assert predictions is not None
    assert [sorted(batch) for batch in predictions] == [["index", "prediction", "target"]] * 3


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_a_network_that_cannot_take_its_inputs_is_named_with_their_shapes(model: str, tmp_path: Path) -> None:
    narrow = Net(3).eval() if model == "teacher" else Net(3)
    inputs = r"x_a \(2, 6\), x_b \(2, 4\)" if model == "teacher" else r"x_b \(2, 4\)"
    with pytest.raises(ValueError, match=f"the {model} Net cannot take {inputs}: "):
        start(make("KD", **{model: narrow}), ToyData(), tmp_path)


def test_a_method_without_terms_is_named_before_the_first_step(tmp_path: Path) -> None:
    class Silent(DistillationModule):
        def distillation_step(self, teacher: Any, student: Any, batch: Batch) -> dict[str, Tensor]:
            return {}

    with pytest.raises(ValueError, match="distillation_step returns no term"):
        start(Silent(**pair_arguments()), ToyData(), tmp_path)


def test_a_teacher_cannot_slip_in_after_construction() -> None:
    with pytest.raises(AttributeError, match="argument of the constructor"):
        make("KD").teacher = Net(10)  # type: ignore[misc]


def test_losses_and_metrics_need_no_lightning() -> None:
    code = "import sys, distill.losses, distill.metrics; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_samples_of_different_sizes_can_be_trained_on_one_by_one(tmp_path: Path) -> None:
    sizes = [(3, 4), (5, 6)]
    samples = [{"x_a": torch.randn(6, *s), "x_b": torch.randn(4, *s), "target": torch.zeros(s).long()} for s in sizes]
    loader: Any = torch.utils.data.DataLoader(samples, batch_size=1)  # type: ignore[arg-type]
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(make("LIX on maps"), loader)
    assert trainer.global_step == 2


def test_a_cycle_of_the_learning_rate_has_the_length_of_the_fit(tmp_path: Path) -> None:
    def fit(total_steps: int) -> None:
        module = make("KD", lr_scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=total_steps))
        start(module, ToyData(), tmp_path)

    with pytest.raises(ValueError, match=r"total_steps=5, but the fit takes 6 steps: give .*\.total_steps 6"):
        fit(5)
    with pytest.warns(UserWarning, match=r"total_steps=7, but the fit takes 6 steps: give .*\.total_steps 6, or"):
        fit(7)


@pytest.mark.parametrize("method", ["KD", "TIEKD on depth"])
def test_where_the_teacher_sees_nothing_the_student_is_still_evaluated(method: str, tmp_path: Path) -> None:
    module, lacking = make(method), make_batch(10, method=method)
    del lacking["x_a"]
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, ToyData(method=method).train_dataloader(), ToyData(lacking).val_dataloader())
    assert any(name.startswith("val/") for name in trainer.callback_metrics)
    with pytest.warns(UserWarning, match="without the modality 'x_a' the student is scored alone"):
        (scores,) = trainer.test(module, ToyData(lacking), verbose=False)
    assert scores
    with pytest.raises(KeyError, match="no modality 'x_a'"):
        quiet_trainer(tmp_path).fit(make(method), ToyData(lacking))
