"""What every paired data module promises."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler, Subset

from datamodules import MNISTM, Batch, GaussianPair, NoisyPair, PairedDataModule, SklearnPair, Splits, TensorPairs
from datamodules.serving.datasets import SplitName, collate


class Promise(NamedTuple):
    """What a data module gives by default; training changes the modalities in ``fresh`` in every epoch."""

    make: Callable[..., PairedDataModule]
    shapes: dict[str, tuple[int, ...]]
    classes: int
    sizes: tuple[int, int, int]
    fresh: tuple[str, ...] = ()


PROMISES = [
    Promise(GaussianPair, {"x_a": (25,), "x_b": (25,)}, 2, (200, 1000, 1000)),
    Promise(SklearnPair, {"x_a": (25,), "x_b": (25,)}, 8, (500, 1000, 1000)),
    Promise(MNISTM, {"image_a": (1, 28, 28), "image_b": (3, 28, 28)}, 10, (3500, 500, 1000)),
    Promise(NoisyPair, {"clean": (1, 28, 28), "noisy": (1, 28, 28)}, 10, (3500, 500, 1000), fresh=("noisy",)),
]
Make = Callable[..., PairedDataModule]
every_module = pytest.mark.parametrize("make", [promise.make for promise in PROMISES])
every_promise = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.make.__name__)


class Chosen(PairedDataModule):
    """Ten pairs to train on, eight to validate and six to test."""

    num_classes = 2
    modalities = ("x_a",)

    def make_splits(self) -> Splits:
        return Splits(
            *(TensorPairs({"x_a": torch.randn(count, 3), "target": torch.zeros(count)}) for count in (10, 8, 6))
        )


def ready(make: Make, **arguments: object) -> PairedDataModule:
    module = make(**arguments)
    module.setup()
    return module


def tensors(module: PairedDataModule) -> list[dict[str, Tensor]]:
    """The samples of each split as they are, without their positions."""
    splits = []
    for split in module.splits:
        batch = whole(DataLoader(split, batch_size=500, collate_fn=collate))
        splits.append({name: values for name, values in batch.items() if name != "index"})
    return splits


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def whole(loader: DataLoader[Batch]) -> Batch:
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@every_promise
def test_batches_hold_the_named_modalities_target_and_index(promise: Promise) -> None:
    module = ready(promise.make, batch_size=100)
    assert module.num_classes == promise.classes
    assert module.modalities == tuple(promise.shapes)
    loaders = [module.train_dataloader(), module.val_dataloader(), module.test_dataloader()]
    for loader, size in zip(loaders, promise.sizes, strict=True):
        batch = next(iter(loader))
        assert set(batch) == {*promise.shapes, "target", "index"}
        for name, shape in promise.shapes.items():
            assert batch[name].shape == (100, *shape)
            assert batch[name].dtype == torch.float32
        for name in ("target", "index"):
            assert batch[name].shape == (100,)
            assert batch[name].dtype == torch.int64
        everything = whole(loader)
        assert sorted(everything["index"].tolist()) == list(range(size))
        assert set(everything["target"].tolist()) == set(range(promise.classes))


@every_promise
def test_index_is_the_position_in_the_split(promise: Promise) -> None:
    module = ready(promise.make, batch_size=64)
    batch = next(iter(module.train_dataloader()))
    assert batch["index"].tolist() != list(range(64))
    for row, index in enumerate(batch["index"].tolist()):
        sample = module.splits.train[index]
        assert {name for name in batch if not torch.equal(sample[name], batch[name][row])} == {*promise.fresh}


@every_promise
def test_a_module_vouches_for_the_modalities_that_are_the_same_in_every_epoch(promise: Promise) -> None:
    module = ready(promise.make, batch_size=500)
    assert module.fixed_modalities == tuple(name for name in promise.shapes if name not in promise.fresh)
    loader = module.train_dataloader()
    first, second = (whole(loader) for _ in range(2))
    for name in promise.shapes:
        epochs = [batch[name][batch["index"].argsort()] for batch in (first, second)]
        assert torch.equal(*epochs) == (name in module.fixed_modalities)


def test_a_module_does_not_vouch_for_a_data_set_that_it_does_not_know() -> None:
    class Foreign(Chosen):
        def make_splits(self) -> Splits:
            return Splits(*(Subset(split, range(2)) for split in super().make_splits()))

    assert ready(Chosen).fixed_modalities == ("x_a",)
    assert ready(Foreign).fixed_modalities == ()


@every_module
def test_same_seed_gives_the_same_data_and_another_seed_other_data(make: Make) -> None:
    first = tensors(ready(make, seed=3))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002  the global state is what must not matter
    for one, two, other in zip(first, tensors(ready(make, seed=3)), tensors(ready(make, seed=4)), strict=True):
        assert same(one, two)
        assert not any(torch.equal(one[name], other[name]) for name in one if name != "target")
        # classes that are balanced and in random order agree by chance only
        assert (one["target"] == other["target"]).float().mean() < 0.7


@every_module
def test_setup_leaves_the_global_random_state_alone(make: Make) -> None:
    seed_everything(1, verbose=False)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    ready(make)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]  # noqa: NPY002


@every_module
def test_setup_for_another_stage_keeps_the_data(make: Make) -> None:
    module = make()
    module.setup("fit")
    splits = module.splits
    module.setup("test")
    assert module.splits is splits


@every_module
def test_no_sample_is_in_two_splits(make: Make) -> None:
    for name in make().modalities:
        samples = torch.cat([split[name] for split in tensors(ready(make))]).numpy()
        assert len({sample.tobytes() for sample in samples}) == len(samples)


@every_module
def test_training_order_follows_seed_everything_and_changes_each_epoch(make: Make) -> None:
    loader = ready(make, batch_size=50).train_dataloader()
    orders = []
    for _ in range(2):
        seed_everything(5, verbose=False)
        orders.append([whole(loader)["index"].tolist() for _ in range(2)])
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]


@every_module
def test_evaluation_runs_in_order_and_predicts_on_the_test_split(make: Make) -> None:
    module = ready(make, batch_size=300)
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        assert isinstance(loader.sampler, SequentialSampler)
    assert same(whole(module.predict_dataloader()), whole(module.test_dataloader()))


@pytest.mark.parametrize("predict_on", ["train", "val", "test"])
def test_predict_sees_the_split_asked_for_and_no_more_than_the_positions_asked_for(predict_on: SplitName) -> None:
    module = Chosen(predict_on=predict_on)
    module.setup()
    state = torch.get_rng_state()
    split = getattr(module.splits, predict_on)
    assert whole(module.predict_dataloader())["index"].tolist() == list(range(len(split)))
    module.predict_only([5, 2])
    batch = whole(module.predict_dataloader())
    assert batch["index"].tolist() == [5, 2]
    assert torch.equal(batch["x_a"][1], split[2]["x_a"])
    module.predict_only([])
    assert not list(module.predict_dataloader())
    module.predict_only(None)
    assert len(whole(module.predict_dataloader())["index"]) == len(split)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_split_to_predict_on_is_refused() -> None:
    with pytest.raises(ValueError, match="predict_on must be one of train, val, test, got 'all'"):
        Chosen(predict_on="all")  # type: ignore[arg-type]


@every_promise
def test_no_batch_size_puts_the_split_into_one_batch(promise: Promise) -> None:
    module = ready(promise.make, batch_size=None)
    loaders = [module.train_dataloader(), module.val_dataloader(), module.test_dataloader()]
    for loader, size in zip(loaders, promise.sizes, strict=True):
        assert [len(batch["index"]) for batch in loader] == [size]


@every_module
def test_last_smaller_batch_is_kept(make: Make) -> None:
    assert [len(batch["target"]) for batch in ready(make, batch_size=300).test_dataloader()] == [300, 300, 300, 100]


@every_module
def test_loader_rebuilt_from_dataset_and_collate_fn_gives_batches(make: Make) -> None:
    loader = ready(make).test_dataloader()
    batch: Batch = next(iter(DataLoader(loader.dataset, batch_size=2, collate_fn=loader.collate_fn)))
    assert batch["index"].tolist() == [0, 1]
    assert all(len(values) == 2 for values in batch.values())
    assert loader.collate_fn is not None
    stacked = loader.collate_fn([loader.dataset[0], loader.dataset[1]])
    assert same(batch, stacked)


@pytest.mark.parametrize("make", [GaussianPair, MNISTM, NoisyPair])
def test_two_workers_give_the_batches_of_none(make: Make) -> None:
    alone = list(ready(make, batch_size=250).test_dataloader())
    loader = ready(make, batch_size=250, num_workers=2).test_dataloader()
    assert loader.persistent_workers
    helped = list(loader)
    assert len(alone) == len(helped) == 4
    assert all(same(one, two) for one, two in zip(alone, helped, strict=True))


def test_processes_of_a_distributed_run_share_the_split() -> None:
    dataset = ready(GaussianPair).splits.train
    shares = []
    for rank in range(2):
        sampler: DistributedSampler[Batch] = DistributedSampler(dataset, num_replicas=2, rank=rank, seed=0)
        loader: DataLoader[Batch] = ready(GaussianPair).train_dataloader()
        rebuilt: DataLoader[Batch] = DataLoader(
            dataset, batch_size=loader.batch_size, sampler=sampler, collate_fn=loader.collate_fn
        )
        shares.append(set(whole(rebuilt)["index"].tolist()))
    assert shares[0] | shares[1] == set(range(200))
    assert not shares[0] & shares[1]


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(25, 2)
        self.seen: dict[str, list[int]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen["train"].append(len(batch["index"]))
        return torch.nn.functional.cross_entropy(self.layer(batch["x_b"]), batch["target"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["val"].append(len(batch["index"]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["test"].append(len(batch["index"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_trainer_fits_and_tests_on_whole_splits() -> None:
    module, data = Recorder(), GaussianPair()
    trainer = Trainer(
        max_epochs=2,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert module.seen == {"train": [200, 200], "val": [1000, 1000], "test": [1000]}


@every_module
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"seed must lie in \[0, 4294967295\], got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"val_size": 0}, "val_size must be at least 1, got 0"),
        ({"test_size": -5}, "test_size must be at least 1, got -5"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Make, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@every_module
def test_data_before_setup_is_one_clear_error(make: Make) -> None:
    with pytest.raises(RuntimeError, match=r"has no data yet: call setup\(\) first"):
        make().train_dataloader()
