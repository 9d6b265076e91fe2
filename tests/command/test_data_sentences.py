"""What users' data meet on the command line: a value, or one sentence."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from lightning import LightningDataModule
from scipy.io import wavfile
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from datamodules.serving.labelled_images import read_labelled_images
from distill.cli import main
from distill.outputs import Batch
from tests.datamodules.image_trees import write_image_folder, write_radar_optical
from tests.datamodules.recordings import write_ravdess
from tests.datamodules.trees import save, write_kitti_depth, write_semantic_kitti

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
NETWORK = {"class_path": "tests.toys.Net", "init_args": {"in_features": 4}}
SUPERVISED: dict[str, Any] = {
    "class_path": "Supervised",
    "init_args": {
        "network": NETWORK,
        "task": {"class_path": "Classification", "init_args": {"num_classes": 4}},
        "inputs": ["x_b"],
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    },
}
METHOD = {
    "class_path": "KD",
    "init_args": {
        "teacher": NETWORK,
        "student": NETWORK,
        "task": SUPERVISED["init_args"]["task"],
        "teacher_inputs": ["x_b"],
        "student_inputs": ["x_b"],
        "hard_weight": 0,
        "optimizer": SUPERVISED["init_args"]["optimizer"],
    },
}


def run(tmp_path: Path, data: dict[str, Any], model: dict[str, Any] = SUPERVISED, subcommand: str = "fit") -> None:
    """Runs a subcommand on a configuration file, as a user does."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"trainer": QUIET, "model": model, "data": data}))
    main([subcommand, "--config", str(path), "--logs_dir", str(tmp_path / "logs")])


class Batches(LightningDataModule):
    """Toy samples without labels, or in a loader of another kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def train_dataloader(self) -> DataLoader[Batch]:
        samples: Any = [{"x_b": torch.randn(4), "index": torch.tensor(index)} for index in range(9)]
        if self.kind == "unlabelled":
            return DataLoader(samples[:8], batch_size=4)
        for sample in samples:
            sample["target"] = torch.tensor(0)
        if self.kind == "stream":
            return DataLoader(Stream(samples), batch_size=4)
        if self.kind == "list":
            return DataLoader(samples, batch_sampler=[[0, 1], [2], [3, 4]])
        return DataLoader(samples, batch_sampler=BatchSampler(SequentialSampler(samples), 4, drop_last=False))

    def val_dataloader(self) -> Any:
        return self.train_dataloader() if self.kind == "unlabelled" else []

    test_dataloader = train_dataloader


class Stream(IterableDataset[Batch]):
    """Samples one after the other, without a length."""

    def __init__(self, samples: Sequence[Batch]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.samples)


def batches(kind: str) -> dict[str, Any]:
    return {"class_path": f"{__name__}.Batches", "init_args": {"kind": kind}}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error; there is no traceback."""
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def test_data_without_labels_are_validated_and_tested_without_scores(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for subcommand in ("fit", "test"):
        run(tmp_path, batches("unlabelled"), METHOD, subcommand)
    warned = [str(warning.message) for warning in recwarn]
    for stage in ("validation", "test"):
        assert warned.count(f"the {stage} batches have no 'target', so there are no scores and no hard loss") == 1
    assert "the validation has no val/accuracy to rank epochs by, so best.ckpt is not written" in warned
    written = {path.name for path in (tmp_path / "logs").rglob("*.ckpt")}
    assert written == {"last.ckpt"}


def test_labels_that_are_missing_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, batches("unlabelled"))
    assert said(capsys) == "the batch has no 'target' for Supervised to learn from or be scored by"
    with pytest.raises(SystemExit):
        run(tmp_path, batches("unlabelled"), METHOD | {"class_path": "DKD"})
    assert said(capsys) == "the batch has no 'target', which DKD needs"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sampler", "the last of an epoch's 3 batches has one sample, .* choose another batch_size than 4"),
        ("list", "number 1 of an epoch's 3 batches has one sample, .* choose other batches"),
        ("stream", r"a batch has one sample, on which a layer cannot train \(Expected more .*: leave such batches out"),
    ],
)
def test_a_batch_of_one_sample_with_batch_norm_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, batches(kind))
    assert re.match(message, said(capsys))


def refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: str,
    model: dict[str, Any] = SUPERVISED,
    **arguments: Any,
) -> str:
    """What a fit says that ends before it starts."""
    arguments = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(tmp_path, {"class_path": data, "init_args": arguments}, model)
    return said(capsys)


def test_calibrations_that_cannot_be_used_name_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_semantic_kitti(tmp_path / "kitti", count=1)
    path = root / "sequences" / "00" / "calib.txt"
    path.write_text(path.read_text().replace("P2: 6.000000e+01", "P2: nan"))
    message = f"{path} should hold the lines P2, P3 and Tr with 12 numbers each, but P2 holds nan"
    assert refused(tmp_path, capsys, "SemanticKITTI", root=root, train_sequences=[0]) == message
    path.unlink()
    message = f"{path} is not there: unpack data_odometry_calib.zip"
    assert refused(tmp_path, capsys, "SemanticKITTI", root=root, train_sequences=[0]) == message


def test_lists_of_another_encoding_are_read_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_kitti_depth(tmp_path / "kitti", size=(16, 24))
    arguments: dict[str, Any] = {"raw_dir": root / "raw", "depth_dir": root / "depth", "test_list": root / "test.txt"}
    text = (root / "train.txt").read_text()
    path = root / "list.txt"
    path.write_bytes((text + "# für alle\n").encode("latin-1"))
    message = f"line 7 of {path} holds the byte 0xfc, which is not UTF-8: save the file as UTF-8"
    assert refused(tmp_path, capsys, "KITTIDepth", train_list=path, **arguments) == message
    path.write_text(text.replace("721.5377", "nan", 1))
    assert "line 1" in refused(tmp_path, capsys, "KITTIDepth", train_list=path, **arguments)


def test_a_crop_that_no_frame_has_room_for_is_found_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_semantic_kitti(tmp_path / "kitti", count=2)
    arguments: dict[str, Any] = {"root": root, "train_sequences": [0], "crop": [32, 96]}
    small = root / "sequences" / "08" / "image_2" / "000001.png"
    save(small, np.zeros((31, 96, 3), np.uint8))
    message = "frame 1 (sequences/08/image_2/000001) has 31 x 96 pixels, too few for a crop of 32 x 96"
    assert refused(tmp_path, capsys, "SemanticKITTI", **arguments) == message
    augmentation = {"class_path": "datamodules.PairedAugmentation", "init_args": {"crop": [33, 90]}}
    assert refused(tmp_path, capsys, "SemanticKITTI", augmentation=augmentation, **arguments) == (
        "frame 0 (sequences/00/image_2/000000) is too small: a crop of 33 x 90 does not fit into 32 x 96 pixels"
    )
    scenes: dict[str, Any] = {"n_train": 2, "n_val": 2, "n_test": 2, "size": [16, 24]}
    assert "a crop of 33 x 90 does not fit into 16 x 24" in refused(
        tmp_path, capsys, "DrivingScenes", augmentation=augmentation, **scenes
    )


def test_folders_of_classes_with_what_does_not_belong_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_image_folder(tmp_path / "animals", count=5)
    arguments: dict[str, Any] = {"dataset": "image_folder", "root": root, "image_size": 8}
    paths = list(read_labelled_images("image_folder", root, 8).images.paths)  # type: ignore[union-attr]
    for folder in (root / "train", root / "val", root / "train" / "cat"):
        for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
            (folder / name).mkdir()
            shutil.copy(root / "val" / "cat" / "0.png", folder / name)
        for name in ("._0.png", ".DS_Store", "Thumbs.db"):
            (folder / name).touch()
    (root / "train" / "cat" / "loop").symlink_to(root / "train")
    (root / "train" / "dog" / "self").symlink_to(root / "train" / "dog")
    data = read_labelled_images("image_folder", root, 8)
    assert data.class_names == ("cat", "dog")
    assert list(data.images.paths) == paths  # type: ignore[union-attr]

    link = root / "train" / "cat" / "9.png"
    link.symlink_to(root / "train" / "dog" / "0.png")
    message = f"{root}/train/dog/0.png and {link} are links to one image, in two classes"
    assert refused(tmp_path, capsys, "NoisyPair", **arguments) == message
    link.unlink()
    (root / "train" / "eel").mkdir()
    message = f"the folder of a class, {root}/train/eel, holds no images"
    assert refused(tmp_path, capsys, "NoisyPair", **arguments).startswith(message)
    for folder in (root / "train", root / "val"):
        shutil.rmtree(folder)
        folder.mkdir()
    message = f"{root}/train holds no folders, and should hold one folder of images for each class"
    assert refused(tmp_path, capsys, "NoisyPair", **arguments) == message


def test_pixels_and_sounds_on_an_unknown_scale_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_radar_optical(tmp_path / "ships", count=5)
    for path in (root / "radar").rglob("*.png"):
        tifffile.imwrite(path.with_suffix(".tif"), np.full((12, 12), -20, np.float32))
        path.unlink()
    model = copy.deepcopy(SUPERVISED)
    model["init_args"]["task"]["init_args"]["num_classes"] = 8
    message = "tif holds values from -20 to -20, but floats should lie from 0 (black) to 1 (white)"
    assert message in refused(tmp_path, capsys, "RadarOptical", model, root=root, size=12)
    root = write_ravdess(tmp_path / "voices")
    for path in root.rglob("*.wav"):
        wavfile.write(path, 16000, np.full(16000, 32767, np.float32))
    message = "wav holds floats up to 32767, but floats should lie from -1 to 1: rescale them"
    arguments: dict[str, Any] = {
        "val_actors": [19],
        "test_actors": [21],
        "mels": 16,
        "seconds": 0.2,
        "frames": 2,
        "size": 8,
    }
    assert message in refused(tmp_path, capsys, "RAVDESS", model, root=root, **arguments)
