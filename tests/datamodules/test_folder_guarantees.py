"""What every data module promises that reads a published data set from a folder."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from lightning import seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from datamodules import (
    RAVDESS,
    Batch,
    Cityscapes,
    KITTIDepth,
    KITTISemantics,
    MissingModalityMRI,
    NYUDepthV2,
    PairedAugmentation,
    PairedDataModule,
    RadarOptical,
    SemanticKITTI,
    VirtualKITTI2,
)
from tests.datamodules.image_trees import write_radar_optical
from tests.datamodules.recordings import write_ravdess
from tests.datamodules.trees import (
    write_cityscapes,
    write_kitti_depth,
    write_kitti_semantics,
    write_nyu_labeled,
    write_semantic_kitti,
    write_virtual_kitti2,
)
from tests.datamodules.volumes import write_brats

Make = Callable[..., PairedDataModule]


class Promise(NamedTuple):
    """A data module, what writes a tree for it, and what it is given to read that; ``target`` as one sample has it."""

    kind: type[PairedDataModule]
    write: Callable[[Path], Path]
    given: Callable[[Path], dict[str, Any]]
    shapes: dict[str, tuple[int, ...]]
    target: tuple[int, ...] = ()
    splits_by_seed: bool = False


def rooted(**further: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda root: {"root": root, **further}


def kitti_depth(root: Path) -> dict[str, Any]:
    lists = {"train_list": root / "train.txt", "test_list": root / "test.txt"}
    return {"raw_dir": root / "raw", "depth_dir": root / "depth", "kb_crop": False, **lists}


STREET: dict[str, tuple[int, ...]] = {"image": (3, 12, 40), "depth": (1, 12, 40)}
PROMISES = [
    Promise(KITTISemantics, write_kitti_semantics, rooted(), STREET, (12, 40), splits_by_seed=True),
    Promise(VirtualKITTI2, write_virtual_kitti2, rooted(n_images=None), STREET, (12, 40), splits_by_seed=True),
    Promise(Cityscapes, write_cityscapes, rooted(), STREET, (12, 40), splits_by_seed=True),
    Promise(
        SemanticKITTI,
        write_semantic_kitti,
        rooted(train_sequences=[0], crop=None),
        {"image": (3, 32, 96), "lidar": (5, 32, 96)},
        (32, 96),
    ),
    Promise(KITTIDepth, partial(write_kitti_depth, size=(16, 24)), kitti_depth, {"image": (3, 16, 24)}, (1, 16, 24)),
    Promise(NYUDepthV2, write_nyu_labeled, rooted(target="classes", geometry=["depth"]), STREET, (12, 40)),
    Promise(
        RAVDESS,
        write_ravdess,
        rooted(val_actors=[19], test_actors=[21], mels=16, seconds=0.2, frames=2, size=8),
        {"audio": (1, 16, 20), "video": (3, 2, 8, 8)},
    ),
    Promise(
        RadarOptical,
        write_radar_optical,
        rooted(size=12),
        {"optical": (3, 12, 12), "radar": (3, 12, 12)},
        splits_by_seed=True,
    ),
    Promise(
        MissingModalityMRI,
        write_brats,
        rooted(patch_size=(12, 12, 16), divisor=4),
        dict.fromkeys(("t1n", "t1c", "t2w", "t2f"), (1, 12, 12, 16)),
        (12, 12, 16),
        splits_by_seed=True,
    ),
]


@pytest.fixture(scope="module", params=PROMISES, ids=lambda promise: promise.kind.__name__)
def promise(request: pytest.FixtureRequest) -> Promise:
    return cast(Promise, request.param)


@pytest.fixture(scope="module")
def make(promise: Promise, tmp_path_factory: pytest.TempPathFactory) -> Make:
    root = promise.write(tmp_path_factory.mktemp(promise.kind.__name__.lower()))
    return partial(promise.kind, **promise.given(root))


def ready(make: Make, **arguments: Any) -> PairedDataModule:
    module = make(**arguments)
    module.setup()
    return module


def whole(loader: DataLoader[Batch]) -> Batch:
    batches = list(loader)
    tensors = [name for name, values in batches[0].items() if isinstance(values, Tensor)]
    return {name: torch.cat([batch[name] for batch in batches]) for name in tensors}


def as_they_are(module: PairedDataModule) -> list[Batch]:
    """The samples of each split, in order and not augmented."""
    loaders = []
    for split in ("train", "val", "test"):
        module.predict_on = split
        loaders.append(whole(module.predict_dataloader()))
    return loaders


def same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(values, second[name]) if isinstance(values, Tensor) else values == second[name]
        for name, values in first.items()
    )


def test_batches_hold_the_named_modalities_target_and_index(promise: Promise, make: Make) -> None:
    module = ready(make, batch_size=2)
    assert module.modalities == tuple(promise.shapes)
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        everything = whole(loader)
        count = len(cast(Any, loader.dataset))
        assert sorted(everything["index"].tolist()) == list(range(count))
        shapes = {**promise.shapes, "target": promise.target, "index": ()}
        assert {name: tuple(values.shape[1:]) for name, values in everything.items()} == shapes
        assert all(everything[name].dtype == torch.float32 for name in promise.shapes)
        assert all(everything[name].isfinite().all() for name in promise.shapes)
        if module.num_classes is None:
            assert everything["target"].dtype == torch.float32
        else:
            assert everything["target"].dtype == torch.int64
            assert {*everything["target"].unique().tolist()} <= {*range(module.num_classes), 255}


def test_same_seed_gives_the_same_data_and_the_seed_splits_where_the_data_set_does_not(
    promise: Promise, make: Make
) -> None:
    first, second = (as_they_are(ready(make, seed=3)) for _ in range(2))
    assert all(map(same, first, second))
    others = [as_they_are(ready(make, seed=seed)) for seed in (4, 5, 6)]
    changed = any(not same(one, two) for other in others for one, two in zip(first, other, strict=True))
    assert changed == promise.splits_by_seed


def test_setup_leaves_the_global_random_state_alone_and_keeps_the_data_of_another_stage(make: Make) -> None:
    seed_everything(1, verbose=False)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    module = make()
    module.setup("fit")
    splits = module.splits
    module.setup("test")
    assert module.splits is splits
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]  # noqa: NPY002


def test_evaluation_runs_in_order_and_predicts_on_the_test_split(make: Make) -> None:
    module = ready(make, batch_size=3)
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        assert isinstance(loader.sampler, SequentialSampler)
        index = whole(loader)["index"].tolist()
        assert index == list(range(len(index)))
    assert same(whole(module.predict_dataloader()), whole(module.test_dataloader()))


def test_training_follows_seed_everything_and_changes_each_epoch(make: Make) -> None:
    loader = ready(make, batch_size=2).train_dataloader()
    epochs: list[list[Batch]] = []
    for _ in range(2):
        seed_everything(5, verbose=False)
        epochs.append([whole(loader) for _ in range(6)])
    assert all(map(same, *epochs))
    assert any(not same(epochs[0][0], other) for other in epochs[0][1:])


def test_augmented_training_is_the_same_with_two_workers(promise: Promise, make: Make) -> None:
    size = promise.shapes["image"][1:] if "image" in promise.shapes else None
    crop = {"augmentation": PairedAugmentation(rotation=5, crop=(size[0] // 2, size[1]))} if size else {}
    batches = []
    for workers in (0, 2):
        seed_everything(5, verbose=False)
        module = ready(make, batch_size=2, num_workers=workers, **crop)
        batches.append(list(module.train_dataloader()))
    assert all(map(same, *batches))


@pytest.mark.parametrize("size", [None, (8, 16)])
def test_a_crop_that_does_not_fit_into_a_frame_is_refused_by_setup(
    promise: Promise, make: Make, size: tuple[int, int] | None
) -> None:
    if "image" not in promise.shapes:
        return  # the other modules resize
    height, width = size or promise.shapes["image"][1:]
    for crop in ((height + 1, width), (height, width + 1)):
        module = make(size=size, augmentation=PairedAugmentation(crop=crop))
        message = rf"^frame 0 \(.*\) is too small: a crop of {crop[0]} x {crop[1]} does not fit into {height} x {width}"
        with pytest.raises(ValueError, match=message):
            module.setup("fit")
    make(size=size, augmentation=PairedAugmentation(crop=(height, width))).setup("fit")


def test_loader_rebuilt_from_dataset_and_collate_fn_gives_batches(make: Make) -> None:
    loader = ready(make).test_dataloader()
    assert loader.collate_fn is not None
    batch: Batch = next(iter(DataLoader(loader.dataset, batch_size=2, collate_fn=loader.collate_fn)))
    stacked = loader.collate_fn([loader.dataset[at] for at in range(len(batch["index"]))])
    assert same(batch, stacked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"seed must lie in \[0, 4294967295\], got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"predict_on": "all"}, "predict_on must be one of train, val, test, got 'all'"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Make, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(**arguments)


def test_data_before_setup_and_a_root_that_is_not_there_are_one_clear_error(promise: Promise, make: Make) -> None:
    with pytest.raises(RuntimeError, match=r"has no data yet: call setup\(\) first"):
        make().train_dataloader()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        promise.kind(**promise.given(Path("nowhere"))).setup()
