"""NTDH's sample mask in a fit: ranked once by a reference student, and shares that change from epoch to epoch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from distill import Batch
from distill.distributed import is_held_out
from distill.methods import NTDH
from distill.metrics import nontarget_jsd
from distill.weighting import MaskMode, NontargetSampleMask, left_out
from tests.losses.cases import IGNORED, random_case
from tests.processes import run_in_processes
from tests.toys import ON_MAPS, ToyData, make_batch, network, pair_arguments, quiet_trainer

MODES: list[MaskMode] = ["true", "false", "random"]


class Weights(Callback):
    """What the mask made of each training batch, by epoch."""

    def __init__(self, mask: NontargetSampleMask) -> None:
        self.weights: list[dict[int, Tensor]] = []
        self.shares: list[float] = []
        self.mask = mask
        mask.register_forward_hook(self.record)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.weights.append({})

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.shares.append(self.mask.current_fraction)

    def record(self, mask: Any, arguments: tuple[Tensor, Tensor, Batch], weights: Tensor) -> None:
        if self.weights and not is_held_out():  # not what the check before the fit and the validation ask
            self.weights[-1] |= dict(zip(arguments[2]["index"].tolist(), weights, strict=True))


def labelled(count: int = 10, method: str = "") -> Batch:
    batch = make_batch(count, method=method)
    batch["target"][3] = IGNORED
    return batch


def reference(folder: Path, method: str = "") -> Path:
    torch.manual_seed(7)
    path = folder / "reference.pt"
    torch.save(network(method, 4).state_dict(), path)
    return path


def said_by_reference(path: Path, batch: Batch, method: str = "") -> Tensor:
    student = network(method, 4).eval()
    student.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        said: Tensor = student(batch["x_b"])
    return said


def fit(
    mask: NontargetSampleMask, folder: Path, batch: Batch, method: str = "", **settings: Any
) -> tuple[NTDH, Weights]:
    module = NTDH(**pair_arguments(method), sample_mask=mask)
    recorded = Weights(mask)
    trainer = quiet_trainer(folder, callbacks=[recorded], **settings)
    trainer.fit(module, ToyData(batch))
    return module, recorded


@pytest.mark.parametrize("mode", MODES)
def test_static_leaves_out_the_same_samples_of_the_whole_training_set_in_every_epoch(mode: Any, tmp_path: Path) -> None:
    batch, path = labelled(), reference(tmp_path)
    module, recorded = fit(NontargetSampleMask(0.45, mode, reference_checkpoint=path), tmp_path, batch)
    out = [{index for index, weight in epoch.items() if weight == 0} for epoch in recorded.weights]
    assert out[0] == out[1]
    assert len(out[0]) == 4  # of nine with a label
    assert 3 not in out[0]
    assert module.teacher is not None
    if mode != "random":
        teacher = module.teacher(batch["x_a"], batch["x_b"])
        divergence = nontarget_jsd(said_by_reference(path, batch), teacher, batch["target"])
        order = sorted((n for n in range(10) if n != 3), key=lambda n: divergence[n], reverse=mode == "true")
        assert out[0] == set(order[:4])


def test_static_on_maps_ranks_the_pixels_of_a_batch_by_the_references_prediction(tmp_path: Path) -> None:
    batch, path = labelled(4, ON_MAPS), reference(tmp_path, ON_MAPS)
    mask = NontargetSampleMask(0.5, reference_checkpoint=path)
    module, recorded = fit(mask, tmp_path, batch, ON_MAPS)
    assert module.teacher is not None
    divergence = nontarget_jsd(
        said_by_reference(path, batch, ON_MAPS), module.teacher(batch["x_a"], batch["x_b"]), batch["target"]
    )
    expected = left_out(divergence.masked_fill(batch["target"] == IGNORED, -torch.inf), 0.5)
    for epoch in recorded.weights:
        assert torch.equal(torch.stack([epoch[n] for n in range(4)]) == 0, expected)


def test_the_reference_is_not_saved_not_trained_and_moves_to_another_dtype(tmp_path: Path) -> None:
    mask = NontargetSampleMask(0.5, reference_checkpoint=reference(tmp_path, ON_MAPS))
    module, _ = fit(mask, tmp_path, labelled(method=ON_MAPS), ON_MAPS)
    before = set(NTDH(**pair_arguments(ON_MAPS), sample_mask=NontargetSampleMask(0.5)).state_dict())
    assert set(module.state_dict()) == before
    assert not any("reference" in name for name, _ in module.named_parameters())
    reference_student: object = mask._reference
    assert isinstance(reference_student, nn.Module)
    assert not any(parameter.requires_grad for parameter in reference_student.parameters())
    assert not reference_student.training
    module.double()
    assert {parameter.dtype for parameter in reference_student.parameters()} == {torch.float64}


@pytest.mark.parametrize("method", ["", ON_MAPS])
def test_a_fit_with_half_precision_weights_can_use_the_reference(method: str, tmp_path: Path) -> None:
    mask = NontargetSampleMask(0.5, reference_checkpoint=reference(tmp_path, method))
    _, recorded = fit(mask, tmp_path, labelled(4, method), method, precision="bf16-true", max_epochs=1)
    assert len(recorded.weights[0]) == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_fit_leaves_out_the_same_samples_as_an_uninterrupted_one(mode: Any, tmp_path: Path) -> None:
    batch, path = labelled(), reference(tmp_path)

    def run(seed: int, max_epochs: int, ckpt_path: Path | None = None) -> tuple[dict[str, Tensor], list[set[int]]]:
        module = NTDH(**pair_arguments(), sample_mask=(mask := mask_of(seed)))
        recorded = Weights(mask)
        last = ModelCheckpoint(tmp_path / str(max_epochs), filename="last", save_on_train_epoch_end=True)
        trainer = quiet_trainer(tmp_path, max_epochs=max_epochs, enable_checkpointing=True, callbacks=[last, recorded])
        trainer.fit(module, ToyData(batch), ckpt_path=ckpt_path)
        return module.state_dict(), [{n for n, weight in epoch.items() if weight == 0} for epoch in recorded.weights]

    def mask_of(seed: int) -> NontargetSampleMask:
        torch.manual_seed(seed)
        return NontargetSampleMask(0.45, mode, reference_checkpoint=path)

    pl.seed_everything(3, verbose=False)
    whole, out = run(1, 4)
    pl.seed_everything(3, verbose=False)
    run(1, 2)
    resumed, out_after = run(2, 4, tmp_path / "2" / "last.ckpt")
    assert out[2:] == out_after
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items() if "extra_state" not in name)


class Stub:
    """What a mask asks of a method and its trainer, for one of several processes."""

    progress_bar_callback = None
    max_epochs = 2
    device = torch.device("cpu")

    def __init__(self, batch: Batch, rank: int, world_size: int) -> None:
        self.module = NTDH(**pair_arguments())
        self.trainer = self
        self.fit_loop = self
        self._data_source = self
        self.data = ToyData(batch, batch_size=3)
        self.global_rank, self.world_size, self.is_global_zero = rank, world_size, rank == 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def dataloader(self) -> Any:
        return self.data.train_dataloader()


def weights_of_whole_set(rank: int, world_size: int, path: Path) -> list[Tensor]:
    batch = labelled(11)
    weights = []
    for mode in MODES:
        torch.manual_seed(3 + rank)
        mask = NontargetSampleMask(0.45, mode, reference_checkpoint=path, average="kept")
        stub: Any = Stub(batch, rank, world_size)
        mask.begin_fit(stub)
        shard = {name: values[rank::world_size] for name, values in batch.items()}
        logits = torch.zeros(len(shard["target"]), 4)
        weights.append(mask(logits, logits, shard))
    return weights


@pytest.mark.ddp
def test_two_processes_rank_the_training_set_as_one_process_does(tmp_path: Path) -> None:
    path = reference(tmp_path)
    whole = weights_of_whole_set(0, 1, path)
    first, second = run_in_processes(weights_of_whole_set, 2, path)
    for one_process, shard_0, shard_1 in zip(whole, first, second, strict=True):
        assert torch.equal(one_process[0::2], shard_0)
        assert torch.equal(one_process[1::2], shard_1)


@pytest.mark.parametrize("mode", MODES)
def test_average_kept_is_the_mean_over_the_kept_positions_only(mode: Any) -> None:
    student, teacher, target = random_case(samples=13, spatial=(2,))
    weights = NontargetSampleMask(0.3, mode, average="kept")(student, teacher, {"target": target})
    counted, values = target != IGNORED, torch.rand(target.shape, dtype=torch.float64)
    kept = counted & (weights > 0)
    assert 0 < kept.sum() < counted.sum()
    torch.testing.assert_close((weights * values)[counted].mean(), values[kept].mean())
    assert weights[~counted].eq(1).all()


def test_all_weights_are_0_if_nothing_is_kept() -> None:
    student, teacher, target = random_case(samples=5)
    weights = NontargetSampleMask(1.0, average="kept")(student, teacher, {"target": target})
    assert weights[target != IGNORED].eq(0).all()


@pytest.mark.parametrize(
    ("fraction", "schedule", "expected"),
    [
        (0.5, "constant", [0.5, 0.5, 0.5, 0.5, 0.5]),
        (0.8, "linear", [0.0, 0.2, 0.4, 0.6, 0.8]),
        (0.8, "cosine", [0.0, 0.4 * (1 - 0.5**0.5), 0.4, 0.4 * (1 + 0.5**0.5), 0.8]),
        ([0.0, 0.7, 0.3], "constant", [0.0, 0.7, 0.3, 0.3, 0.3]),
    ],
)
def test_the_fraction_follows_its_schedule_over_the_epochs_of_a_fit(
    fraction: Any, schedule: Any, expected: list[float], tmp_path: Path
) -> None:
    mask = NontargetSampleMask(fraction, schedule=schedule)
    _, recorded = fit(mask, tmp_path, make_batch(10), max_epochs=5)
    assert recorded.shares == pytest.approx(expected)


def test_a_growing_fraction_without_a_number_of_epochs_is_refused_before_the_fit_starts(tmp_path: Path) -> None:
    class NeverStarts(Callback):
        def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            pytest.fail("the fit has started")

    module = NTDH(**pair_arguments(), sample_mask=NontargetSampleMask(0.5, schedule="linear"))
    trainer = quiet_trainer(tmp_path, max_epochs=-1, max_steps=2, callbacks=[NeverStarts()])
    with pytest.raises(ValueError, match="schedule='linear' needs to know the trainer's max_epochs, got -1: set it"):
        trainer.fit(module, ToyData(make_batch(10)))


def test_samples_without_an_index_cannot_be_ranked_once(tmp_path: Path) -> None:
    batch = make_batch(10)
    del batch["index"]
    with pytest.raises(KeyError, match="the batch has no 'index', but ranking='static' needs it"):
        fit(NontargetSampleMask(0.5, reference_checkpoint=reference(tmp_path)), tmp_path, batch)


def test_a_missing_or_different_reference_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*missing\.ckpt"):
        fit(NontargetSampleMask(0.5, reference_checkpoint=tmp_path / "missing.ckpt"), tmp_path, make_batch(10))
    torch.save(network("", 5).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"first.weight has shape \(6, 5\) in the file and \(6, 4\) in the network"):
        fit(NontargetSampleMask(0.5, reference_checkpoint=tmp_path / "wide.pt"), tmp_path, make_batch(10))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"ranking": "static"}, "ranking='static' takes a reference_checkpoint, got none"),
        ({"ranking": "dynamic", "reference_checkpoint": "x"}, "ranking='dynamic' takes no reference_checkpoint, got x"),
        ({"ranking": "once"}, "ranking must be one of static, dynamic, got 'once'"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, got 'step'"),
        ({"average": "mean"}, "average must be one of all, kept, got 'mean'"),
        ({"fraction": [0.5, 1.5]}, r"each fraction must lie in \[0, 1\], got 1.5"),
        ({"fraction": []}, "fraction is an empty list"),
        ({"fraction": [0.5], "schedule": "linear"}, r"schedule='linear' takes one fraction, got the list \[0.5\]"),
    ],
)
def test_contradicting_options_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NontargetSampleMask(**{"fraction": 0.5} | arguments)


def test_a_copy_of_a_module_has_its_own_reference(tmp_path: Path) -> None:
    mask = NontargetSampleMask(0.5, reference_checkpoint=reference(tmp_path, ON_MAPS))
    module, _ = fit(mask, tmp_path, labelled(method=ON_MAPS), ON_MAPS)
    twin = copy.deepcopy(module)
    assert twin.sample_mask is not None
    assert module.sample_mask is not None
    assert twin.sample_mask._reference is not module.sample_mask._reference
