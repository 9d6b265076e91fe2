"""Damaged files in the middle of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from datamodules import Batch, KITTISemantics, NoisyPair, RadarOptical, SemanticKITTI
from datamodules.noisy_pair import NoisyImages
from datamodules.radar_optical import ImagePairs
from datamodules.reading.frame_files import FileFrames
from datamodules.reading.image_files import UnreadableError
from datamodules.seeded import SeededDataModule
from datamodules.semantic_kitti import ScanFrames
from datamodules.serving.frame_pairs import FramePairs
from datamodules.serving.labelled_images import ImageFiles
from tests.datamodules.image_trees import write_image_folder, write_radar_optical
from tests.datamodules.trees import write_kitti_semantics, write_semantic_kitti


class Kind(NamedTuple):
    """A data module, and the file that a training sample of it is read from."""

    make: Callable[..., SeededDataModule]
    file: Callable[[Any, int], Path]


def noisy(folder: Path, **arguments: Any) -> SeededDataModule:
    return NoisyPair("image_folder", write_image_folder(folder), image_size=8, **arguments)


def noisy_file(dataset: NoisyImages, position: int) -> Path:
    return Path(cast(ImageFiles, dataset.images.images).paths[dataset.positions[position]])


def radar(folder: Path, **arguments: Any) -> SeededDataModule:
    return RadarOptical(write_radar_optical(folder), size=8, **arguments)


def radar_file(dataset: ImagePairs, position: int) -> Path:
    return Path(dataset.paths["radar"][position])


def frames(folder: Path, **arguments: Any) -> SeededDataModule:
    return KITTISemantics(write_kitti_semantics(folder), size=(8, 16), **arguments)


def frame_file(dataset: FramePairs, position: int) -> Path:
    return cast(Path, cast(FileFrames, dataset.frames).files[position].depth)


def scans(folder: Path, **arguments: Any) -> SeededDataModule:
    sequences: dict[str, Any] = {"train_sequences": [0], "val_sequences": [8], "test_sequences": [8]}
    return SemanticKITTI(write_semantic_kitti(folder), crop=None, **sequences, **arguments)


def scan_file(dataset: FramePairs, position: int) -> Path:
    return cast(ScanFrames, dataset.frames).files[position].scan


KINDS = [Kind(noisy, noisy_file), Kind(radar, radar_file), Kind(frames, frame_file), Kind(scans, scan_file)]


def damaged(kind: Kind, folder: Path, *positions: int, **arguments: Any) -> SeededDataModule:
    """A data module of whose training samples these cannot be read."""
    data = kind.make(folder, batch_size=2, **arguments)
    data.setup()
    for position in positions:
        path = kind.file(data.splits.train, position)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 1])
    return data


def epoch_of(data: SeededDataModule) -> tuple[DataLoader[Batch], list[Batch]]:
    torch.manual_seed(0)
    loader = data.train_dataloader()
    return loader, list(loader)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.make.__name__)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_next_readable_sample_takes_the_place_of_a_damaged_one_and_each_epoch_says_so(
    kind: Kind, num_workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = kind.make(tmp_path / "whole", batch_size=2)
    whole.setup()
    expected = [index for batch in epoch_of(whole)[1] for index in batch["index"].tolist()]
    count = len(expected)
    data = damaged(kind, tmp_path / "cut", 1, count - 1, on_error="skip", num_workers=num_workers)
    stand_ins = {1: 2 % (count - 1), count - 1: 0}
    loader, batches = epoch_of(data)
    found = [index for batch in batches for index in batch["index"].tolist()]
    assert found == [stand_ins.get(index, index) for index in expected]
    assert all(len(values) == len(batch["index"]) for batch in batches for values in batch.values())
    (record,) = caplog.records
    assert f"2 training samples were replaced in this epoch, since 2 of {count} are unreadable" in record.message
    assert str(kind.file(data.splits.train, 1)) in record.message
    assert record.levelno == logging.WARNING
    list(loader)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.make.__name__)
def test_a_damaged_file_ends_the_fit_unless_asked_otherwise_and_evaluation_always(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=str(tmp_path)):
        epoch_of(damaged(kind, tmp_path / "a", 1))
    data = damaged(kind, tmp_path / "b", on_error="skip")
    for position in range(len(cast(Any, data.splits.val))):
        path = kind.file(data.splits.val, position)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 1])
    with pytest.raises(UnreadableError, match=str(tmp_path)):
        list(data.val_dataloader())


def test_where_no_sample_is_readable_the_error_says_so(tmp_path: Path) -> None:
    kind = KINDS[1]
    count = len(cast(Any, damaged(kind, tmp_path / "a").splits.train))
    with pytest.raises(UnreadableError, match=f"none of the {count} training samples can be read"):
        epoch_of(damaged(kind, tmp_path / "b", *range(count), on_error="skip"))


def test_processes_of_a_distributed_run_take_equally_many_batches_beside_damaged_files(tmp_path: Path) -> None:
    data = damaged(KINDS[0], tmp_path, 0, 2, 4, on_error="skip")
    loader = data.train_dataloader()
    counts = []
    for rank in range(2):
        sampler: DistributedSampler[Batch] = DistributedSampler(loader.dataset, 2, rank)
        share: DataLoader[Batch] = DataLoader(loader.dataset, 2, sampler=sampler, collate_fn=loader.collate_fn)
        counts.append([len(batch["index"]) for batch in share])
    assert counts[0] == counts[1]


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="on_error must be one of raise, skip, got 'ignore'"):
        NoisyPair(on_error="ignore")


def test_random_training_samples_leave_no_choice_of_the_steps_per_epoch() -> None:
    with pytest.raises(TypeError, match="steps_per_epoch"):
        NoisyPair(steps_per_epoch=3)
