"""What goes wrong in the middle of a fit ends it in one sentence, and harms nothing."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from distill import Batch, Supervised
from distill.training.losses import LossWatch
from tests.methods.examples import HintAndRelations
from tests.toys import Net, Samples, ToyData, make, make_batch, pair_arguments, quiet_trainer


class Ordered(ToyData):
    """Batches of two in order, so that the probe sees the first two samples and no others."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch, batch_size=2)

    train_dataloader = ToyData.val_dataloader


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(module.named_parameters()))


@pytest.mark.parametrize("method", ["KD", "hint and relations", "Supervised"])
@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_samples_that_are_not_finite_are_named_before_the_optimiser_steps(
    method: str, strange: float, tmp_path: Path
) -> None:
    batch = make_batch(10)
    batch["x_b"][[4, 5], 1] = strange
    module: Supervised
    if method == "Supervised":
        arguments = pair_arguments()
        module = Supervised(arguments["student"], arguments["task"], ["x_b"], arguments["optimizer"])
    else:
        module = make(method)
    before: list[dict[str, Tensor]] = []
    module.on_before_zero_grad = lambda optimizer: before.append(weights_of(module))  # type: ignore[method-assign]
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0)
    with pytest.raises(
        ValueError, match=r"^the loss is nan in epoch 0, step 2: 'x_b' is not finite in samples 4, 5 of the data set$"
    ):
        trainer.fit(module, Ordered(batch))
    assert trainer.global_step == 2
    for name, value in module.named_parameters():
        assert torch.equal(value, before[-1][name]), name


def test_many_samples_are_counted_and_those_without_an_index_are_numbered_in_their_batch() -> None:
    batch = {"x": torch.full((12, 3), math.nan), "target": torch.zeros(12)}
    watch = LossWatch()
    watch.watch(torch.tensor(math.nan), {}, batch, ["x"])
    with pytest.raises(ValueError, match=r"samples 0, 1, 2, 3, 4, 5, 6, 7 and 4 more of the batch$"):
        watch.check(torch.nn.Linear(1, 1), when="here")
    watch.check(torch.nn.Linear(1, 1), when="after it was reported")


def test_an_infinite_sum_of_finite_terms_is_one_sentence() -> None:
    watch = LossWatch()
    watch.watch(torch.tensor(math.inf), {"kd": torch.tensor(3e38)}, {"x": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"^the loss is inf here: all its terms, .* and all weights are finite$"):
        watch.check(torch.nn.Linear(1, 1), when="here")


def test_weights_or_terms_are_named_where_the_data_are_fine(tmp_path: Path) -> None:
    class Overflows(HintAndRelations):
        def distillation_step(self, *args: Any) -> dict[str, Tensor]:
            return super().distillation_step(*args) | {"odd": torch.tensor(math.inf)}

    layers = {"teacher_layers": ["first"], "student_layers": ["first"]}
    with pytest.raises(ValueError, match=r"the loss is inf in epoch 0, step 0: these terms are not finite: odd;"):
        quiet_trainer(tmp_path).fit(Overflows(**pair_arguments(), **layers), ToyData())
    student = Net(4)
    torch.nn.init.constant_(student.head.bias, math.nan)
    with pytest.raises(ValueError, match=r"the loss is nan in epoch 0, step 0: the network's weight 'head.bias' is"):
        quiet_trainer(tmp_path).fit(make("KD", student=student), ToyData())


def test_a_teacher_that_is_not_finite_is_named(tmp_path: Path) -> None:
    arguments = pair_arguments()
    torch.nn.init.constant_(arguments["teacher"].head.bias, math.nan)
    with pytest.raises(
        ValueError, match=r"^the loss is nan in epoch 0, step 0: the teacher's weight 'head.bias' is not"
    ):
        quiet_trainer(tmp_path).fit(make("KD", **arguments), ToyData())
    arguments = pair_arguments()
    # a network that overflows for two samples, which stand out of the others
    arguments["teacher"].forward = partial(_overflowing, arguments["teacher"].forward)
    batch = make_batch(10)
    batch["x_a"][[6, 7]] = 1e4
    with pytest.raises(ValueError, match="the teacher's prediction is not finite in samples 6, 7 of the data set, but"):
        quiet_trainer(tmp_path, num_sanity_val_steps=0).fit(make("KD", **arguments), Ordered(batch))


def _overflowing(forward: Any, *inputs: Tensor) -> Tensor:
    output: Tensor = forward(*inputs)
    return torch.where((inputs[0] > 1e3).flatten(1).any(1)[:, None], math.inf, output)


def test_a_fit_goes_well_where_the_teacher_masks_a_class_by_minus_infinity(tmp_path: Path) -> None:
    for method in ("KD", "DKD", "DWLD", "NTDH", "PSSM of KD"):
        arguments = pair_arguments()
        torch.nn.init.constant_(arguments["teacher"].head.bias[3:], -math.inf)
        batch = make_batch(10)
        batch["target"].clamp_(max=2)
        quiet_trainer(tmp_path).fit(make(method, **arguments), ToyData(batch))


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_wrong_label_in_the_middle_of_an_epoch_is_named_with_its_sample(stage: str, tmp_path: Path) -> None:
    batch = make_batch(10)
    batch["target"][7] = 9
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0)
    with pytest.raises(
        ValueError, match=r"label 9, but the task has the classes 0 to 3 .*; the sample has the index 7$"
    ):
        getattr(trainer, stage)(make("KD"), Ordered(batch))
    assert trainer.global_step == (3 if stage == "fit" else 0)


def test_labels_that_predict_does_not_look_at_may_be_anything(tmp_path: Path) -> None:
    batch = make_batch(10)
    batch["target"][7] = 9
    assert quiet_trainer(tmp_path).predict(make("KD"), Ordered(batch))


class Named(ToyData):
    """Says what its classes are called."""

    def __init__(self, *class_names: str) -> None:
        super().__init__()
        self.class_names = class_names


def checkpoint_of(folder: Path, *class_names: str) -> Path:
    """A teacher's checkpoint that was trained on these classes."""
    arguments = pair_arguments()
    module = Supervised(Net(10), arguments["task"], ["x_a", "x_b"], arguments["optimizer"])
    trainer = quiet_trainer(folder, max_epochs=1)
    trainer.fit(module, Named(*class_names))
    trainer.save_checkpoint(folder / "teacher.ckpt", weights_only=True)
    return folder / "teacher.ckpt"


def test_a_teacher_of_the_same_classes_in_another_order_is_refused_and_of_other_names_warned_of(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = checkpoint_of(tmp_path, "cat", "dog", "cow", "fly")

    def fit(*class_names: str, **arguments: Any) -> None:
        module = make("KD", teacher=Net(10), teacher_checkpoint=path, **arguments)
        quiet_trainer(tmp_path, max_epochs=1).fit(module, Named(*class_names))

    with pytest.raises(
        ValueError,
        match="teacher_checkpoint was trained on the same classes in another order: class 1 is 'dog' there and 'cow' "
        r"in the data; teacher_classes: \[0, 2, 1, 3\] brings its predictions to the order of the data",
    ):
        fit("cat", "cow", "dog", "fly")
    with pytest.warns(UserWarning, match="was trained on other classes: class 3 is 'fly' there and 'wasp' in the data"):
        fit("cat", "dog", "cow", "wasp")
    recwarn.clear()
    fit("cat", "dog", "cow", "fly")
    fit("cat", "cow", "dog", "fly", teacher_classes=["cat", "dog", "cow", "fly"])
    fit()
    assert not [warning for warning in recwarn if "classes" in str(warning.message)]


def test_a_checkpoint_is_not_tested_on_the_same_classes_in_another_order(tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, "cat", "dog", "cow", "fly")
    arguments = pair_arguments()
    module = Supervised(Net(10), arguments["task"], ["x_a", "x_b"])
    with pytest.raises(ValueError, match="the checkpoint was trained on the same classes in another order: class 0"):
        quiet_trainer(tmp_path).test(module, Named("dog", "cat", "cow", "fly"), ckpt_path=path)


def test_an_empty_validation_split_is_no_fault_and_an_empty_test_split_is_named(tmp_path: Path) -> None:
    class Empty(ToyData):
        def val_dataloader(self) -> DataLoader[Batch]:
            return DataLoader(Samples(make_batch(0)), 4)

        test_dataloader = val_dataloader

    quiet_trainer(tmp_path).fit(make("KD"), Empty())
    with pytest.raises(ValueError, match="the data set to test on is empty"):
        quiet_trainer(tmp_path).test(make("KD"), Empty())


@pytest.mark.parametrize("method", ["KD", "KD on maps", "RKD", "Combined on depth"])
def test_a_fit_on_nothing_but_ignored_labels_stays_finite(method: str, tmp_path: Path) -> None:
    module = make(method)
    batch = make_batch(10, method=method)
    batch["target"] = torch.full_like(batch["target"], module.ignore_index)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, ToyData(batch))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert all(parameter.isfinite().all() for parameter in module.parameters())


class Normed(nn.Module):
    """BatchNorm over maps of a size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x[:, :, None, None].expand(-1, -1, self.size, self.size))
        return normed.mean((2, 3))


def student_on(network: nn.Module) -> Supervised:
    return Supervised(network, pair_arguments()["task"], ["x_b"], partial(torch.optim.SGD, lr=0.1))


class OneOfTwoProcesses(ToyData):
    """The first one's half of the samples, in batches of four."""

    def train_dataloader(self) -> DataLoader[Batch]:
        sampler: Sampler[Any] = DistributedSampler(self.samples, num_replicas=2, rank=0)
        return DataLoader(self.samples, 4, sampler=sampler)


@pytest.mark.parametrize("data", [ToyData(make_batch(10), 3), ToyData(make_batch(10), 1), OneOfTwoProcesses()])
@pytest.mark.parametrize("method", ["Supervised", "KD"])
def test_a_last_batch_of_one_sample_is_refused_before_the_first_step_where_batch_norm_cannot_take_it(
    data: ToyData, method: str, tmp_path: Path
) -> None:
    module = student_on(Normed(size=1)) if method == "Supervised" else make("KD", student=Normed(size=1))
    before = copy.deepcopy(module.state_dict())
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0)
    with pytest.raises(
        ValueError,
        match=r"^the last of an epoch's \d+ batches has one sample, on which the network Normed cannot train "
        r"\(Expected more than 1 value per channel.*\): choose another batch_size than \d$",
    ):
        trainer.fit(module, data)
    assert trainer.global_step == 0
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("network", "batch_size", "settings"),
    [
        (Normed(size=2), 3, {}),
        (Normed(size=1), 4, {}),
        (Normed(size=1).requires_grad_(False).eval(), 3, {}),
        (Normed(size=1), 3, {"limit_train_batches": 3}),
        (Normed(size=1), 3, {"max_steps": 3}),
    ],
    ids=["larger maps", "a last batch of two", "frozen", "an epoch cut short", "a fit cut short"],
)
def test_what_can_train_is_not_refused_for_a_last_batch_of_one_sample(
    network: nn.Module, batch_size: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = nn.Sequential(nn.Linear(4, 4), network)
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0, max_epochs=1, **settings)
    trainer.fit(student_on(whole), ToyData(make_batch(10), batch_size))
    assert trainer.global_step == (4 if not settings else 3) - (batch_size == 4)


class Counted(nn.Module):
    """Puts another tensor in the place of a buffer, and refuses one sample in its own way where it is told to."""

    seen: Tensor

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None and len(x) == 1:
            raise self.error
        self.seen = self.seen + len(x) * self.training
        return x


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("no such file")], ids=str)
def test_an_error_that_is_not_about_one_sample_is_left_as_it_is(error: Exception, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4), Counted(error))
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0)
    with pytest.raises(type(error), match=f"^{error}$"):
        trainer.fit(student_on(network), ToyData(make_batch(10), 3))


def test_showing_the_network_one_sample_leaves_no_trace(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []

    class Kept(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            kept.append(copy.deepcopy(module.state_dict()) | {"random": torch.get_rng_state()})

    for size in (9, 10):  # of three, the last batch of ten has one sample
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(4, 4), Counted(), Normed(size=2), nn.Dropout(0.5))
        trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[Kept()])
        batch = {name: values[:size] for name, values in make_batch(10).items()}
        torch.manual_seed(4)
        trainer.fit(student_on(network), ToyData(batch, 3))
    first, second = kept[0], kept[3]
    assert all(torch.equal(first[name], second[name]) for name in first)
