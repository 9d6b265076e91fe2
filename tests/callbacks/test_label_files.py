"""Predictions of pixels, voxels and points as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from callbacks import PredictionWriter
from callbacks.parts import resumable_folder
from callbacks.parts.label_files import LabelFiles
from callbacks.parts.resumable_folder import ResumableFolder
from datamodules import Cityscapes, SemanticKITTI
from datamodules.reading.cityscapes_classes import CLASS_NAMES, PALETTE
from datamodules.reading.cityscapes_classes import LABEL_IDS as STREET_IDS
from datamodules.reading.nyu_classes import LABEL_IDS as NYU_IDS
from datamodules.serving.frame_pairs import Extent
from tests.callbacks.pairs import trainer
from tests.datamodules.trees import ODOMETRY_CALIBRATION, write_cityscapes, write_semantic_kitti

# learning_map_inv of the published semantic-kitti.yaml, whose classes count from 1
LEARNING_MAP_INV = (0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
CLASSES = 19
STRIPE = 4  # columns


def stripes(width: int) -> NDArray[np.int64]:
    """The class of each column."""
    return np.arange(width) // STRIPE % CLASSES


class Striped(LightningModule):
    """Predicts stripes of one class each; counts the samples that it sees."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.network.weight, gain)
        self.seen: list[int] = []

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        self.seen += batch["index"].tolist()
        count, _, height, width = batch["image"].shape
        logits = F.one_hot(torch.from_numpy(stripes(width)), CLASSES).T.float()
        return {"prediction": logits[None, :, None].expand(count, -1, height, -1)}


class Replayed(LightningModule):
    """Predicts what the batch holds."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        prediction: Tensor = batch["student"]
        return prediction


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read(path: Path) -> NDArray[Any]:
    return np.array(Image.open(path))


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_semantic_kitti(tmp_path_factory.mktemp("kitti"), count=2, sequences=(0, 8, 11))
    for path in (root / "sequences" / "11" / "labels").iterdir():
        path.unlink()
    (root / "sequences" / "11" / "labels").rmdir()
    return root


def scans(root: Path, **arguments: Any) -> SemanticKITTI:
    return SemanticKITTI(root, train_sequences=[0], crop=(30, 90), batch_size=2, **arguments)


def test_each_point_of_a_scan_has_the_official_label_of_its_pixel(kitti: Path, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "out", colours=True)
    trainer(tmp_path, writer).predict(Striped(), datamodule=scans(kitti), return_predictions=False)
    names = [f"sequences/08/{kind}" for kind in ("image_2/00000{}_color.png", "predictions/00000{}.label")]
    assert files(tmp_path / "out") == ["predictions.json", *(name.format(n) for name in names for n in (0, 1))]
    scan = np.fromfile(kitti / "sequences/08/velodyne/000001.bin", "<f4").reshape(-1, 4)
    labels = np.fromfile(tmp_path / "out/sequences/08/predictions/000001.label", "<u4")
    matrices = {
        line[: line.index(":")]: np.array(line.split()[1:], np.float64).reshape(3, 4)
        for line in ODOMETRY_CALIBRATION.splitlines()
    }
    expected = []
    for x, y, z, _ in scan.astype(np.float64):
        u, v, w = matrices["P2"] @ [*(matrices["Tr"] @ [x, y, z, 1]), 1]
        column, row = round(u / w), round(v / w)
        # the crop of 30 x 90 keeps the lowest rows and the middle columns of 32 x 96
        in_crop = w > 0 and 2 <= row < 32 and 3 <= column < 93
        expected.append(LEARNING_MAP_INV[1 + stripes(96)[column - 3]] if in_crop else 0)
    assert labels.tolist() == expected
    assert 200 < np.count_nonzero(labels) < 1500
    painted = read(tmp_path / "out/sequences/08/image_2/000001_color.png")
    assert painted.shape == (32, 96, 3)
    assert not painted[:2].any()
    assert tuple(painted[2, 3]) == (100, 150, 245)  # car
    assert tuple(painted[31, 3 + STRIPE]) == (100, 230, 245)  # bicycle


def test_scans_without_published_labels_are_predicted_on(kitti: Path) -> None:
    data = scans(kitti, test_sequences=[11])
    data.setup("predict")
    assert (next(iter(data.predict_dataloader()))["target"] == 255).all()
    assert data.prediction_path(1) == "sequences/11/predictions/000001.label"


def test_official_ids_are_those_of_the_label_files() -> None:
    published = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    assert published == STREET_IDS
    assert tuple(range(1, 41)) == NYU_IDS
    assert LEARNING_MAP_INV[1:] == SemanticKITTI.label_ids


def test_labels_have_the_size_of_the_frame_on_disk_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "data", cities=2, count=2, size=(32, 96))

    def predict(module: Striped, **arguments: Any) -> list[int]:
        data = Cityscapes(root, val_cities=0, size=(16, 48), batch_size=1)
        writer = PredictionWriter(tmp_path / "out", **arguments)
        trainer(tmp_path, writer).predict(module, datamodule=data, return_predictions=False)
        assert data.predict_dataloader().dataset is data.predict_dataset
        return module.seen

    arguments: dict[str, Any] = {"ids": "official", "colours": True, "probabilities": True}
    assert predict(Striped(), **arguments) == [0, 1]
    written = [name for name in files(tmp_path / "out") if name.endswith(".png") and "color" not in name]
    first = tmp_path / "out" / written[0]
    assert len(written) == 2
    assert (root / written[0]).is_file()
    labels, painted = read(first), read(first.with_name(f"{first.stem}_color.png"))
    assert labels.shape == (32, 96)
    assert labels.dtype == np.uint8
    # twice as wide; the logits of two stripes are equal at no pixel, as its centre lies beside their border
    columns = stripes(48).repeat(2)
    assert np.array_equal(labels, np.tile(np.array(STREET_IDS)[columns], (32, 1)))
    assert np.array_equal(painted, np.tile(np.array(PALETTE)[columns], (32, 1, 1)))
    with np.load(first.with_name(f"{first.stem}_probabilities.npz")) as arrays:
        probabilities = arrays["probabilities"]
    assert probabilities.shape == (CLASSES, 16, 48)
    assert probabilities[0, 0, 0] == pytest.approx(np.e / (np.e + CLASSES - 1), rel=1e-3)
    assert len(CLASS_NAMES) == CLASSES

    before = first.stat().st_mtime_ns
    (tmp_path / "out" / written[1]).unlink()
    assert predict(Striped(), **arguments) == [1]
    assert first.stat().st_mtime_ns == before
    (tmp_path / "out" / written[1]).unlink()
    for module, changes in ((Striped(2.0), {}), (Striped(), {"probabilities": False})):
        with pytest.raises(ValueError, match=r"predictions\.json says (network|files) .* but this run would write"):
            predict(module, **(arguments | changes))
    assert not (tmp_path / "out" / written[1]).exists()


def batches(student: Tensor, names: list[str] | None = None) -> DataLoader[Any]:
    samples = [{"student": values} | ({} if names is None else {"name": names[n]}) for n, values in enumerate(student)]
    return DataLoader(samples, batch_size=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "suffix", "kind"),
    [((3, 2, 4), "png", np.uint8), ((300, 2, 4), "png", np.uint16), ((3, 2, 3, 4), "npy", np.uint8)],
    ids=["pixels", "pixels of many classes", "voxels"],
)
def test_files_of_any_module_are_named_by_the_batch_and_hold_the_highest_class(
    tmp_path: Path, shape: tuple[int, ...], suffix: str, kind: type[np.generic]
) -> None:
    student = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    names = ["a/x", "a/y", "b/x"]
    trainer(tmp_path, PredictionWriter()).predict(Replayed(), batches(student, names))
    folder = tmp_path / "run" / "predictions"
    assert files(folder) == [f"{name}.{suffix}" for name in names] + ["predictions.json"]
    path = folder / f"b/x.{suffix}"
    stored = np.load(path) if suffix == "npy" else read(path)
    assert stored.dtype == kind
    assert np.array_equal(stored, student[2].argmax(0).numpy())


def test_points_without_names_are_numbered_in_order(tmp_path: Path) -> None:
    trainer(tmp_path, PredictionWriter()).predict(Replayed(), batches(torch.randn(3, 4, 5)))
    assert files(tmp_path / "run" / "predictions") == [*(f"00000{n}.npy" for n in range(3)), "predictions.json"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "a"], "two samples have the name 'a', so one would replace the other's prediction"),
        (["a", "../b", "c"], r"the name '\.\./b' of a sample should be a path inside a folder"),
        (["/a", "b", "c"], r"the name '/a' of a sample should be a path inside a folder"),
        (["a\0b", "b", "c"], r"the name 'a\\x00b' of a sample cannot be the name of a file"),
        (["a" * 230, "b", "c"], "of a sample cannot be the name of a file: use at most 220 bytes between slashes"),
        (["a/b", "a//./b", "c"], "two samples have the name 'a/b'"),
    ],
)
def test_names_that_would_lose_a_file_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, PredictionWriter()).predict(Replayed(), batches(torch.randn(3, 4, 2, 2), names))


@pytest.mark.parametrize("arguments", [{"ids": "official"}, {"colours": True}])
def test_ids_and_colours_that_the_data_do_not_have_are_refused_before_predicting(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    class Unknown(LightningDataModule):
        def predict_dataloader(self) -> Any:
            pytest.fail("nothing is predicted")

    with pytest.raises(ValueError, match=r"Unknown has no (label_ids|palette)"):
        trainer(tmp_path, PredictionWriter(**arguments)).predict(Replayed(), datamodule=Unknown())


def test_a_folder_with_predictions_of_other_data_is_refused(tmp_path: Path) -> None:
    roots = [write_cityscapes(tmp_path / name, cities=1, count=1, size=(32, 96)) for name in ("data", "more")]

    def predict(root: Path, **changes: Any) -> None:
        data = Cityscapes(root, val_cities=0, batch_size=1, **({"size": (8, 24)} | changes))
        trainer(tmp_path, PredictionWriter(tmp_path / "out")).predict(
            Striped(), datamodule=data, return_predictions=False
        )

    predict(roots[0])
    before = (tmp_path / "out" / "predictions.json").read_bytes()
    predict(roots[0])
    for message, root, changes in (("root", roots[1], {}), ("size", roots[0], {"size": (16, 48)})):
        with pytest.raises(ValueError, match=rf"predictions\.json says {message} .* but this run would write"):
            predict(root, **changes)
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before


def test_samples_without_names_are_not_added_to_predictions_of_an_earlier_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, PredictionWriter())
    run.predict(Replayed(), batches(torch.zeros(2, 3, 2, 2)))
    before = files(tmp_path / "run" / "predictions")
    with pytest.raises(ValueError, match="holds predictions of an earlier run, and samples without names cannot be"):
        run.predict(Replayed(), batches(torch.ones(4, 3, 2, 2)))
    assert files(tmp_path / "run" / "predictions") == before


class Several(Replayed):
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return super().predict_step(batch, batch_idx)


def test_the_samples_of_each_loader_are_numbered_from_0(tmp_path: Path) -> None:
    loaders = {"day": batches(torch.zeros(2, 3, 4)), "night": batches(torch.zeros(3, 3, 4))}
    trainer(tmp_path, PredictionWriter()).predict(Several(), loaders)
    night = [f"night/00000{n}.npy" for n in range(3)]
    assert files(tmp_path / "run" / "predictions") == ["000000.npy", "000001.npy", *night, "predictions.json"]


class Cropped:
    """Frames of 4 x 4 whose last two columns were predicted."""

    def prediction_extent(self, position: int) -> Extent:
        return Extent((4, 4), (0, 2), (4, 2))


@pytest.mark.parametrize("exclusive", [True, False])
def test_larger_logits_are_averaged_and_several_labels_have_the_size_of_the_frame(
    tmp_path: Path, exclusive: bool
) -> None:
    # the centre of each square of 4 x 4 says the second class, its mean the first
    square = torch.full((4, 4), 3.0)
    square[1:3, 1:3] = -5
    logits = torch.stack([square, -square]).repeat(1, 4, 2)
    writer = LabelFiles(tmp_path, Cropped(), "classes", colours=False, probabilities=False)
    writer.write("a", 0, logits, torch.sigmoid, exclusive=exclusive)
    if exclusive:
        assert read(tmp_path / "a.png").tolist() == [[255, 255, 0, 0]] * 4
    else:
        assert np.load(tmp_path / "a.npy").tolist() == [[[255, 255, 1, 1]] * 4, [[255, 255, 0, 0]] * 4]


def test_a_description_that_another_process_writes_just_now_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[dict[str, Any] | None] = iter([None, {"files": []}])
    monkeypatch.setattr(resumable_folder, "read_description", lambda *_: next(answers))
    (tmp_path / "predictions.json").write_text("{}")
    assert ResumableFolder(tmp_path, "predictions.json", "predictions").read() == {"files": []}


class Painted(LightningDataModule):
    """Data of the user's with colours."""

    def __init__(self, names: list[str], palette: list[tuple[int, int, int]]) -> None:
        super().__init__()
        self.names = names
        self.palette = palette

    def predict_dataloader(self) -> Any:
        return batches(torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(len(self.names), 2, 1, 1), self.names)


def test_a_name_that_ends_like_another_file_is_a_name(tmp_path: Path) -> None:
    data = Painted(["a_color", "b_probabilities.npz"], [(1, 2, 3), (4, 5, 6)])
    trainer(tmp_path, PredictionWriter(tmp_path / "out", colours=True)).predict(Replayed(), datamodule=data)
    assert read(tmp_path / "out" / "a_color.png").tolist() == [[0]]
    assert read(tmp_path / "out" / "a_color_color.png").tolist() == [[[1, 2, 3]]]
    assert read(tmp_path / "out" / "b_probabilities.npz.png").tolist() == [[0]]


@pytest.mark.parametrize(
    ("names", "colours", "message"),
    [
        (["a", "a_color"], 2, r"the samples 'a' and 'a_color' would both be written to .*a_color\.png"),
        (["a"], 1, "palette of Painted has 1 entries, but the predictions have 2 classes"),
    ],
)
def test_files_of_two_samples_and_classes_without_a_colour_are_refused(
    tmp_path: Path, names: list[str], colours: int, message: str
) -> None:
    data = Painted(names, [(1, 2, 3)] * colours)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, PredictionWriter(colours=True)).predict(Replayed(), datamodule=data)


def test_a_loader_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    loaders = {"day": batches(torch.zeros(2, 3, 4)), "..": batches(torch.zeros(2, 3, 4))}
    with pytest.raises(ValueError, match=r"the name '\.\./000000' of a sample should be a path inside a folder"):
        trainer(tmp_path, PredictionWriter()).predict(Several(), loaders)


def test_predictions_of_nan_are_no_predictions_and_told(tmp_path: Path) -> None:
    pixels = torch.tensor([[1.0, torch.nan], [0.0, 1.0]]).view(1, 2, 1, 2)
    for folder, logits in (("files", pixels), ("table", torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]))):
        with pytest.warns(UserWarning, match="some predictions are NaN"):
            trainer(tmp_path / folder, PredictionWriter()).predict(Replayed(), batches(logits))
    assert read(tmp_path / "files/run/predictions/000000.png").tolist() == [[0, 255]]
    assert (tmp_path / "table/run/predictions.csv").read_text().splitlines()[2] == ","


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="out is a file: give a folder for the predictions"):
        trainer(tmp_path, PredictionWriter(tmp_path / "out")).predict(Replayed(), batches(torch.zeros(1, 3, 4)))
