"""With the teacher's responses on disk a fit is what it is without, and the teacher runs once per sample."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from datamodules import NoisyPair
from distill import Batch, Classification, DistillationModule
from distill.teacher.cache import TeacherCache
from tests.methods.pointwise import Pointwise
from tests.processes import run_in_processes
from tests.toys import METHODS, ON_DEPTH, ON_MAPS, Net, ToyData, make, make_batch, network, quiet_trainer

every_method = pytest.mark.parametrize("method", METHODS)
SAMPLES = 10


class RowLinear(nn.Linear):
    """A layer whose result for a sample does not depend, by rounding, on its place in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.weight).sum(-1) + self.bias


def make_exact(method: str, **changes: Any) -> DistillationModule:
    """The method with a teacher whose result for a sample depends on nothing else."""
    torch.manual_seed(0)
    teacher = network(method, 10).eval()
    if not method.endswith((ON_MAPS, ON_DEPTH)):
        for layer in ("first", "head"):
            teacher.get_submodule(layer).__class__ = RowLinear
    return make(method, teacher=teacher, **changes)


class Fit:
    """A fit of three epochs, and how many training samples the teacher was asked for in each."""

    def __init__(self, folder: Path, method: str, *, batch_size: int = 4, devices: int = 1, **changes: Any) -> None:
        pl.seed_everything(3, verbose=False)
        self.module = make_exact(method, **changes)
        self.asked = [0] * 3
        parallel = {"strategy": "ddp_find_unused_parameters_true", "devices": devices} if devices > 1 else {}
        trainer = quiet_trainer(folder, max_epochs=3, limit_val_batches=1, **parallel)

        def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            if trainer.training and trainer.fit_loop.epoch_loop.batch_idx >= 0:  # and not in setup
                self.asked[trainer.current_epoch] += len(inputs[0])

        assert self.module.teacher is not None
        self.module.teacher.register_forward_hook(count)
        trainer.fit(self.module, ToyData(batch_size=batch_size, method=method))
        self.logged = trainer.callback_metrics

    def assert_same_as(self, other: Fit) -> None:
        first, second = self.module.state_dict(), other.module.state_dict()
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
        assert {name: float(value) for name, value in self.logged.items()} == {
            name: float(value) for name, value in other.logged.items()
        }


@every_method
def test_results_with_and_without_the_cache_are_equal_and_the_teacher_runs_once_per_sample(
    method: str, tmp_path: Path
) -> None:
    without = Fit(tmp_path, method)
    cached = Fit(tmp_path, method, cache_teacher=tmp_path / "cache")
    assert without.asked == [SAMPLES] * 3
    assert cached.asked == [SAMPLES, 0, 0]
    cached.assert_same_as(without)


@pytest.mark.parametrize("method", ["hint and relations", "TIEKD on depth"])
def test_a_later_fit_does_not_run_the_teacher(method: str, tmp_path: Path) -> None:
    first, second = (Fit(tmp_path, method, cache_teacher=tmp_path / "cache") for _ in range(2))
    assert second.asked == [0] * 3
    second.assert_same_as(first)


class StopAfter(Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("method", ["KD", "Combined", "LIX on maps"])
def test_an_incomplete_cache_is_continued(method: str, tmp_path: Path) -> None:
    cached = make_exact(method, cache_teacher=tmp_path / "cache")
    with pytest.raises(RuntimeError, match="stopped"):
        quiet_trainer(tmp_path, callbacks=[StopAfter(1)]).fit(cached, ToyData(method=method))
    rest = Fit(tmp_path, method, cache_teacher=tmp_path / "cache")
    assert rest.asked == [SAMPLES - 4, 0, 0]
    rest.assert_same_as(Fit(tmp_path, method))


def test_tokens_come_back_as_maps_and_their_layout_belongs_to_the_cache(tmp_path: Path) -> None:
    modules = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        torch.manual_seed(0)
        teacher = Pointwise(10, 7, "class_token").eval()
        modules.append(make("AT on maps", teacher=teacher, cache_teacher=cache))
        fit(modules[-1], tmp_path, ToyData(method="AT on maps"))
    for module in modules[1:]:
        for value, expected in zip(module.state_dict().values(), modules[0].state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected)
    (folder,) = (tmp_path / "cache").iterdir()
    layers = json.loads((folder / "description.json").read_text())["layers"]
    assert layers == [["norm", "tokens", 1, [3, 4], [3, 4]], ["head", "tokens", 1, [3, 4], [3, 4]]]


def folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def fit(module: DistillationModule, folder: Path, data: Any = None, **settings: Any) -> None:
    quiet_trainer(folder, **settings).fit(module, data or ToyData())


def test_another_teacher_layer_input_data_set_or_precision_has_its_own_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shifted = make_batch(10)
    shifted["x_a"] = shifted["x_a"] + 1
    taller = {name: torch.cat([values, values]) for name, values in make_batch(10).items()}
    taller["index"] = torch.arange(20)
    other = Net(10).eval()
    torch.nn.init.zeros_(other.head.bias)
    cases: list[tuple[dict[str, Any], Any, dict[str, Any]]] = [
        ({}, None, {}),
        ({"teacher": other}, None, {}),
        ({"teacher_layers": ["norm"]}, None, {}),
        ({"teacher_inputs": ["x_b", "x_a"]}, None, {}),
        ({}, ToyData(shifted), {}),
        ({}, ToyData(taller), {}),
        ({}, None, {"precision": "bf16-mixed"}),
    ]
    for number, (changes, data, settings) in enumerate(cases, start=1):
        fit(make("KD", cache_teacher=cache, **changes), tmp_path, data, **settings)
        assert len(folders(cache)) == number
    before = folders(cache)
    fit(make("DKD", cache_teacher=cache), tmp_path)  # other methods share the teacher's responses
    assert folders(cache) == before


def test_a_cache_of_another_teacher_in_the_folder_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fit(make("KD", cache_teacher=cache), tmp_path)
    (folder,) = cache.iterdir()
    description = json.loads((folder / "description.json").read_text())
    (folder / "description.json").write_text(json.dumps(description | {"teacher": "another"}))
    with pytest.raises(ValueError, match="was written for another teacher: it has 'another', but 'Net "):
        fit(make("KD", cache_teacher=cache), tmp_path)


def test_random_transforms_are_refused_before_the_first_step(tmp_path: Path) -> None:
    class Foreign(ToyData):
        fixed_modalities = ()  # type: ignore[assignment]

    noisy = NoisyPair(batch_size=500)
    module = make("KD", cache_teacher=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"'x_a' is not one of the fixed_modalities of Foreign"):
        fit(module, tmp_path, Foreign())
    with pytest.raises(ValueError, match="'x_a' is not one of the fixed_modalities of a plain data loader"):
        fit(module, tmp_path, ToyData().train_dataloader())
    module = make(
        "KD",
        teacher=nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval(),
        student=nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        task=None,
        teacher_inputs=["noisy"],
        student_inputs=["noisy"],
        cache_teacher=tmp_path / "cache",
    )
    module.task = Classification(10)
    with pytest.raises(ValueError, match="'noisy' is not one of the fixed_modalities of NoisyPair"):
        fit(module, tmp_path, noisy)
    assert module.global_step == 0
    assert not (tmp_path / "cache").exists()


class Augmented(ToyData):
    """Says that it is fixed, but is not."""

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        assert self.trainer is not None
        moved = batch["x_a"].clone()
        if self.trainer.current_epoch == 1:
            moved[batch["index"] == 7] += 1e-6
        return batch | {"x_a": moved}


def test_a_changed_sample_is_named(tmp_path: Path) -> None:
    module = make("KD", cache_teacher=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"sample 7 differs from the sample .* transforms are random, or the data"):
        fit(module, tmp_path, Augmented())
    assert 3 <= module.global_step < 6


def test_samples_without_positions_are_refused(tmp_path: Path) -> None:
    batch = make_batch(10)
    module = make("KD", cache_teacher=tmp_path / "cache")
    for index in (None, torch.arange(1, 11)):
        changed = {name: values for name, values in batch.items() if name != "index"}
        with pytest.raises(ValueError, match="needs the position of each sample as 'index' in the batches of Toy"):
            fit(module, tmp_path, ToyData(changed | ({} if index is None else {"index": index})))


def test_channels_last_features_are_read_channels_last(tmp_path: Path) -> None:
    batch = make_batch(10, method="LIX on maps")
    data = ToyData(batch, method="LIX on maps")
    module = make("LIX on maps", cache_teacher=tmp_path / "cache")
    assert module.teacher is not None
    module.teacher.to(memory_format=torch.channels_last)
    seen: list[bool] = []
    inner = module.distillation_step

    def spy(teacher: Any, *args: Any) -> dict[str, Tensor]:
        seen.extend(x.is_contiguous(memory_format=torch.channels_last) for x in teacher.features.values())
        return inner(teacher, *args)

    module.distillation_step = spy  # type: ignore[assignment,method-assign]
    quiet_trainer(tmp_path).fit(module, data)
    assert all(seen)


def test_validation_and_test_run_the_teacher_and_create_no_cache(tmp_path: Path) -> None:
    module = make("KD", cache_teacher=tmp_path / "cache")
    for command in (quiet_trainer(tmp_path).validate, quiet_trainer(tmp_path).test):
        command(module, ToyData(), verbose=False)
    assert not (tmp_path / "cache").exists()


def test_a_copy_of_a_module_with_an_open_cache_has_a_closed_one(tmp_path: Path) -> None:
    class Copying(Callback):
        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            twin = copy.deepcopy(module)
            assert isinstance(twin.teacher_cache, TeacherCache)
            assert twin.teacher_cache._store is None
            assert twin.teacher_cache.folder == tmp_path / "cache"

    fit(make("KD", cache_teacher=tmp_path / "cache"), tmp_path, callbacks=[Copying()])


def test_fits_at_the_same_time_share_a_cache(tmp_path: Path) -> None:
    class Second(Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                assert Fit(tmp_path, "KD", cache_teacher=tmp_path / "cache").asked == [0] * 3

    fit(make_exact("KD", cache_teacher=tmp_path / "cache"), tmp_path, callbacks=[Second()])


DDP_METHODS = ("KD", "hint and relations", "CRD", "LIX on maps")


def fits_of_a_rank(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    results: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in {**environment, "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": 0}.items():
            monkeypatch.setenv(name, str(value))
        for method in DDP_METHODS:
            for run, cache in {"without": None, "first": folder, "second": folder}.items():
                fit = Fit(Path(folder), method, batch_size=3, devices=2, cache_teacher=cache)
                results[f"{method} {run}"] = {"asked": fit.asked, "weights": dict(fit.module.state_dict())}
    return results


@pytest.mark.ddp
def test_two_processes_share_the_cache_and_end_with_the_same_weights_as_without(tmp_path: Path) -> None:
    ranks = run_in_processes(fits_of_a_rank, 2, str(tmp_path))
    for method in DDP_METHODS:
        for rank in ranks:
            assert rank[f"{method} without"]["asked"] == [SAMPLES // 2] * 3
            assert rank[f"{method} first"]["asked"] == [SAMPLES // 2, 0, 0]
            assert rank[f"{method} second"]["asked"] == [0] * 3
            for run in ("first", "second"):
                for name, value in rank[f"{method} without"]["weights"].items():
                    assert torch.equal(rank[f"{method} {run}"]["weights"][name], value), f"{method}: {name}"
