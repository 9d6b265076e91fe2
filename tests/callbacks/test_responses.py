from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from callbacks import ResponseWriter
from datamodules import DrivingScenes, GaussianPair, KITTIDepth
from distill import Batch
from tests.callbacks.pairs import trainer
from tests.datamodules.trees import write_kitti_depth
from tests.full_disk import small_files
from tests.processes import run_in_processes, start_process

SIZE = (16, 40)


class DepthNet(LightningModule):
    """Depth from 0 to ``farthest`` metres, at ``1 / stride`` of the image's size; counts the samples that it sees."""

    def __init__(self, seed: int = 0, farthest: float = 60.0, stride: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 1, 3, padding=1, stride=stride)
        self.farthest = farthest
        self._seen: list[int] = []

    def forward(self, image: Tensor) -> Tensor:
        depth: Tensor = self.farthest * self.layer(image).sigmoid()
        return depth

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self._seen += batch["index"].tolist()
        return {"prediction": self(batch["image"]), "index": batch["index"]}


def scenes(**arguments: Any) -> DrivingScenes:
    given = {"n_train": 7, "n_val": 2, "n_test": 2, "size": SIZE, "target": "depth", "batch_size": 2}
    return DrivingScenes(**{**given, "predict_on": "train", **arguments})


def write(folder: Path, network: LightningModule, data: Any = None, **arguments: Any) -> None:
    """Predicts as the command line does, which asks for no predictions back."""
    run = trainer(folder.parent / "run", ResponseWriter(folder, **arguments))
    assert run.predict(network, datamodule=scenes() if data is None else data) is None


def files(folder: Path) -> dict[str, int]:
    """When each file was written, by its name; half-written ones included."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def read(folder: Path, **arguments: Any) -> tuple[Tensor, Tensor]:
    """The responses to all training scenes, and the scenes."""
    data = scenes(responses=folder, n_val=1, n_test=1, **arguments)
    data.setup("predict")
    batches = list(data.predict_dataloader())
    response, image = (torch.cat([batch[name] for batch in batches]) for name in ("teacher_prediction", "image"))
    return response, image


def furthest_off(depth: Tensor, unit: float) -> float:
    """Half a unit, as files hold whole units, and half an ulp of the largest depth, as float32 is what is read."""
    return (unit + float(np.spacing(np.float32(depth.max())))) / 2


@pytest.mark.parametrize(
    ("arguments", "max_depth", "unit"),
    [
        ({}, 65.5, 0.001),
        ({}, 80.0, 0.002),
        ({"metres_per_unit": 80 / 65535}, 80.0, 80 / 65535),
        ({"format": "npz"}, 80.0, 0.0),
    ],
)
def test_what_is_read_is_what_was_predicted(
    tmp_path: Path, arguments: dict[str, Any], max_depth: float, unit: float
) -> None:
    network, folder = DepthNet(), tmp_path / "responses"
    write(folder, network, scenes(max_depth=max_depth), **arguments)
    response, image = read(folder)
    with torch.no_grad():
        predicted = torch.cat([network(images) for images in image.split(2)])  # batches as they were written
    assert response.shape == predicted.shape == (7, 1, *SIZE)
    assert predicted.std() > 1
    assert (response - predicted).abs().max() <= furthest_off(predicted, unit)
    suffix = arguments.get("format", "png")
    assert list(files(folder)) == ["responses.json", *(f"{number:06d}.{suffix}" for number in range(7))]
    assert (folder / f"seed_0_ambiguity_0.3/train/000006.{suffix}").is_file()


def test_files_hold_millimetres_in_sixteen_bits(tmp_path: Path) -> None:
    network, folder = DepthNet(), tmp_path / "responses"
    write(folder, network, scenes(max_depth=60))
    stored = cv2.imread(str(folder / "seed_0_ambiguity_0.3/train/000003.png"), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.dtype == np.uint16
    with torch.no_grad():
        predicted = network(read(folder)[1][3:4])[0, 0].double().numpy()
    assert np.abs(stored - 1000 * predicted).max() < 0.51
    described = json.loads((folder / "responses.json").read_text())
    assert (described["metres_per_unit"], described["format"], described["size"]) == (0.001, "png", [*SIZE])


def test_smaller_predictions_are_resized_bilinearly_to_the_images(tmp_path: Path) -> None:
    network, folder = DepthNet(stride=2), tmp_path / "responses"
    write(folder, network, format="npz")
    response, image = read(folder)
    with torch.no_grad():
        small = network(image)
    assert small.shape[-2:] == (8, 20)
    expected = np.stack([cv2.resize(one[0].numpy(), SIZE[::-1], interpolation=cv2.INTER_LINEAR) for one in small])
    np.testing.assert_allclose(response[:, 0].numpy(), expected, atol=1e-4)


def test_a_run_that_was_stopped_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, folder, whole = DepthNet(), tmp_path / "responses", tmp_path / "whole"
    save, saved = Image.Image.save, list[Path]()

    def failing(image: Any, path: Path, *rest: Any) -> None:
        if len(saved) == 3:
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path, *rest)

    data = scenes()
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", failing)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            write(folder, network, data)
    assert network._seen == [0, 1, 2, 3]
    before = files(folder)
    assert list(before) == ["responses.json", "000000.png", "000001.png", "000002.png"]
    assert len(list(data.predict_dataloader())) == 4
    with pytest.raises(
        FileNotFoundError, match=r"holds no response for 4 of 7 frames, the first is .*/train/000003\.png"
    ):
        read(folder)

    network._seen = []
    write(folder, network, data)
    assert network._seen == [3, 4, 5, 6]
    assert before.items() < files(folder).items()
    write(whole, network)
    assert torch.equal(read(folder)[0], read(whole)[0])


def write_until_killed(folder: Path) -> None:
    save, saved = Image.Image.save, list[Path]()

    def killed(image: Any, path: Path, *rest: Any) -> None:
        if len(saved) == 3:
            path.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        saved.append(path)
        save(image, path, *rest)

    Image.Image.save = killed  # type: ignore[method-assign,assignment]
    write(folder, DepthNet())


def test_a_kill_in_the_middle_of_a_file_leaves_whole_responses_and_is_gone_on_from(tmp_path: Path) -> None:
    network, folder, whole = DepthNet(), tmp_path / "responses", tmp_path / "whole"
    process = start_process(write_until_killed, folder)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = {name: time for name, time in files(folder).items() if not name.startswith(".")}
    assert list(before) == ["responses.json", "000000.png", "000001.png", "000002.png"]
    write(folder, network)
    assert network._seen == [3, 4, 5, 6]
    assert before.items() < files(folder).items()
    write(whole, network)
    assert torch.equal(read(folder)[0], read(whole)[0])


def test_a_full_disk_leaves_whole_responses_and_is_gone_on_from(tmp_path: Path) -> None:
    network, folder = DepthNet(), tmp_path / "responses"
    with small_files(400), pytest.raises(OSError, match="File too large"):
        write(folder, network)
    assert list(files(folder)) == ["responses.json"]
    write(folder, network)
    assert len(files(folder)) == 8
    read(folder)


def test_a_finished_folder_costs_one_sample_and_takes_further_splits(tmp_path: Path) -> None:
    network, folder = DepthNet(), tmp_path / "responses"
    for split in ("train", "val", "test"):
        write(folder, network, scenes(predict_on=split))
    network._seen = []
    write(folder, network)
    assert network._seen == [0]
    scenes(responses=folder).setup()


@pytest.mark.parametrize(
    ("network", "data", "arguments", "message"),
    [
        (DepthNet(seed=1), {}, {}, "says network '[0-9a-f]{64}', but this run would write '"),
        (DepthNet(farthest=50.0), {}, {}, "says network '[0-9a-f]{64}', but this run would write '"),
        (DepthNet(), {}, {"metres_per_unit": 0.0015}, r"says metres_per_unit 0\.002, but this run would write 0\.0015"),
        (DepthNet(), {}, {"format": "npz"}, r"says metres_per_unit 0\.002, but"),
        (DepthNet(), {"size": (32, 80)}, {}, r"says size \[16, 40\], but this run would write \[32, 80\]"),
    ],
)
def test_a_folder_that_was_begun_otherwise_is_refused(
    tmp_path: Path, network: DepthNet, data: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "responses"
    write(folder, DepthNet())
    before = files(folder)
    with pytest.raises(ValueError, match=message):
        write(folder, network, scenes(**data), **arguments)
    assert files(folder) == before


def test_a_folder_of_unknown_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "responses").mkdir()
    (tmp_path / "responses" / "0000000001.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"responses holds files, but no responses\.json to say which network wrote them"
    ):
        write(tmp_path / "responses", DepthNet())


class Constant(DepthNet):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def forward(self, image: Tensor) -> Tensor:
        return torch.tensor(self.values).view(-1, 1, 1, 1).expand(len(image), 1, *image.shape[-2:])


def test_a_depth_that_a_file_cannot_hold_is_refused_and_not_cut_off(tmp_path: Path) -> None:
    message = (
        r"^the prediction for seed_0_ambiguity_0\.3/train/000001 reaches 65\.700 m, but 16 bits of 0\.001 m end at "
        r"65\.535 m: give a larger metres_per_unit, or format npz$"
    )
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "responses", Constant(65.5, 65.7), metres_per_unit=0.001)
    assert list(files(tmp_path / "responses")) == ["responses.json", "000000.png"]
    for value in (float("nan"), float("inf"), -0.1):
        with pytest.raises(ValueError, match="train/000000 is no depth: it has values that are negative or not finite"):
            write(tmp_path / str(value), Constant(value), format="npz")


class Classifier(DepthNet):
    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros(len(image), 5)


def test_what_is_no_depth_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"depth of the shape \(N, 1, H, W\), but the prediction has \(2, 5\)"):
        write(tmp_path / "responses", Classifier())


def test_samples_without_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the samples of GaussianPair have no names to store responses under"):
        write(tmp_path / "responses", DepthNet(), GaussianPair())


def test_responses_to_frames_on_disk_have_the_size_of_the_fixed_crop(tmp_path: Path) -> None:
    root, network, folder = write_kitti_depth(tmp_path / "kitti"), DepthNet(), tmp_path / "responses"

    def data(**arguments: Any) -> KITTIDepth:
        lists = root / "train.txt", root / "test.txt"
        return KITTIDepth(root / "raw", root / "depth", *lists, train_without_depth=True, **arguments)

    for split in ("train", "test"):
        write(folder, network, data(predict_on=split))
    name = "2011_09_28/2011_09_28_drive_0001_sync/image_02/data/0000000001.png"
    stored = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.shape == (352, 1216)
    taught = data(responses=folder)
    taught.setup()
    batch = next(iter(taught.test_dataloader()))
    with torch.no_grad():
        predicted = network(batch["image"])
    assert (batch["teacher_prediction"] - predicted).abs().max() <= furthest_off(predicted, unit=0.002)


def predict_in_part(rank: int, world_size: int, folder: str) -> list[int]:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in {**environment, "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": 0}.items():
            monkeypatch.setenv(name, str(value))
        network, path = DepthNet(), Path(folder, "responses")
        run = trainer(Path(folder, "run"), ResponseWriter(path, format="npz"), strategy="ddp", devices=2)
        run.predict(network, datamodule=scenes(), return_predictions=False)
    return network._seen


@pytest.mark.ddp
def test_two_processes_share_what_is_left(tmp_path: Path) -> None:
    write(tmp_path / "alone", DepthNet(), format="npz")
    write(tmp_path / "responses", DepthNet(), scenes(n_train=3), format="npz")
    (tmp_path / "responses/seed_0_ambiguity_0.3/train/000001.npz").unlink()
    seen = run_in_processes(predict_in_part, 2, str(tmp_path))
    assert sorted(seen[0] + seen[1]) == [1, 3, 4, 5, 6]
    assert seen[0]
    assert seen[1]
    torch.testing.assert_close(read(tmp_path / "responses")[0], read(tmp_path / "alone")[0], atol=1e-4, rtol=0)


class Rank(Trainer):
    """One of eight processes, as callbacks see it."""

    world_size = 8


def test_every_process_keeps_a_sample(tmp_path: Path) -> None:
    network, folder = DepthNet(), tmp_path / "responses"
    write(folder, network)
    for number in (2, 4):
        (folder / f"seed_0_ambiguity_0.3/train/{number:06d}.png").unlink()
    data, run = scenes(n_train=7), Rank(logger=False)
    run.datamodule = data  # type: ignore[attr-defined]
    data.setup()
    ResponseWriter(folder).setup(run, network, "predict")
    indices = torch.cat([batch["index"] for batch in data.predict_dataloader()])
    assert indices.tolist() == [2, 4, 0, 1, 3, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "jpg"}, "format must be one of png, npz, got 'jpg'"),
        ({"metres_per_unit": 0.0}, r"metres_per_unit must be positive, got 0\.0"),
        ({"metres_per_unit": 0.001, "format": "npz"}, r"metres_per_unit 0\.001 is for png files"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResponseWriter("folder", **arguments)
