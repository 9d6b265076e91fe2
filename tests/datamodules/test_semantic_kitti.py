from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import PairedAugmentation, SemanticKITTI
from datamodules.reading.lidar import FEATURE_MEANS, FEATURE_STDS
from datamodules.reading.semantic_kitti_classes import CLASS_NAMES, PALETTE, read_classes
from datamodules.semantic_kitti import read_calibration
from tests.datamodules.trees import ODOMETRY_CALIBRATION, SCAN_LABELS, stored, write, write_semantic_kitti

# learning_map of the published semantic-kitti.yaml, which counts from 1 and has 0 for what does not count
LEARNING_MAP = {
    0: 0,
    1: 0,
    10: 1,
    11: 2,
    13: 5,
    15: 3,
    16: 5,
    18: 4,
    20: 5,
    30: 6,
    31: 7,
    32: 8,
    40: 9,
    44: 10,
    48: 11,
    49: 12,
    50: 13,
    51: 14,
    52: 0,
    60: 9,
    70: 15,
    71: 16,
    72: 17,
    80: 18,
    81: 19,
    99: 0,
    252: 1,
    253: 7,
    254: 6,
    255: 8,
    256: 5,
    257: 5,
    258: 4,
    259: 5,
}


# labels and color_map of the same file, which has blue first
PUBLISHED = {
    10: ("car", (245, 150, 100)),
    11: ("bicycle", (245, 230, 100)),
    15: ("motorcycle", (150, 60, 30)),
    18: ("truck", (180, 30, 80)),
    20: ("other-vehicle", (255, 0, 0)),
    30: ("person", (30, 30, 255)),
    31: ("bicyclist", (200, 40, 255)),
    32: ("motorcyclist", (90, 30, 150)),
    40: ("road", (255, 0, 255)),
    44: ("parking", (255, 150, 255)),
    48: ("sidewalk", (75, 0, 75)),
    49: ("other-ground", (75, 0, 175)),
    50: ("building", (0, 200, 255)),
    51: ("fence", (50, 120, 255)),
    70: ("vegetation", (0, 175, 0)),
    71: ("trunk", (0, 60, 135)),
    72: ("terrain", (80, 240, 150)),
    80: ("pole", (150, 240, 255)),
    81: ("traffic-sign", (0, 0, 255)),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_semantic_kitti(tmp_path / "kitti")


def module(root: Path, **arguments: Any) -> SemanticKITTI:
    return SemanticKITTI(root, **{"train_sequences": [0], "crop": None} | arguments)


def ready(root: Path, **arguments: Any) -> SemanticKITTI:
    made = module(root, **arguments)
    made.setup()
    return made


def names(data: SemanticKITTI) -> list[list[str]]:
    return [list(split.names) for split in data.make_frames()]  # type: ignore[attr-defined]


def test_labels_become_the_19_classes_with_moving_ones_merged(tmp_path: Path) -> None:
    path = tmp_path / "000000.label"
    np.array([label | 9 << 16 for label in LEARNING_MAP], "<u4").tofile(path)
    expected = [label - 1 if label else 255 for label in LEARNING_MAP.values()]
    assert read_classes(path, len(LEARNING_MAP)).tolist() == expected
    assert len(CLASS_NAMES) == len(PALETTE) == 19
    for label, (name, colour) in PUBLISHED.items():
        position = LEARNING_MAP[label] - 1
        assert (CLASS_NAMES[position], PALETTE[position]) == (name, colour[::-1])


def test_a_label_that_the_data_set_has_not_is_named(tmp_path: Path) -> None:
    path = tmp_path / "000000.label"
    np.array([40, 12, 12], "<u4").tofile(path)
    with pytest.raises(ValueError, match=f"^{path} holds the label 12 of 2 points, which is not SemanticKITTI's$"):
        read_classes(path, 3)


def test_the_calibration_gives_the_projection_and_the_stereo_camera(tmp_path: Path) -> None:
    projection, camera = read_calibration(write(tmp_path / "calib.txt", ODOMETRY_CALIBRATION))
    # a point ahead at the lidar's height; by hand: Tr takes (10, 0, 0) to (-0.0077, -0.1261, 9.7075)
    u, v, w = projection @ np.array([10, 0, 0, 1.0])
    assert w == pytest.approx(9.7075 + 0.0038, abs=2e-4)
    assert u == pytest.approx(60 * -0.0077 + 47.5 * 9.7075 + 3.8, abs=1e-2)
    assert v == pytest.approx(60 * -0.1261 + 15.5 * 9.7075 - 0.009, abs=1e-2)
    assert camera[:4] == (60, 60, 47.5, 15.5)
    assert camera.baseline == pytest.approx(32 / 60)


def test_each_point_of_the_frame_is_a_point_of_the_scan_with_its_class(root: Path) -> None:
    frame = module(root).make_frames()[0][1]
    folder = root / "sequences" / "00"
    assert np.array_equal(frame.image, stored(folder / "image_2" / "000001.png"))
    scan = np.fromfile(folder / "velodyne" / "000001.bin", np.float32).reshape(-1, 4)
    labels = np.fromfile(folder / "labels" / "000001.label", np.uint32) & 0xFFFF
    classes = {
        tuple(point): LEARNING_MAP[label] - 1 for point, label in zip(scan.tolist(), labels.tolist(), strict=True)
    }
    assert frame.lidar is not None
    occupied = frame.lidar[..., 0] > 0
    assert 200 < occupied.sum() < 1500
    for point, target in zip(frame.lidar[occupied], frame.target[occupied], strict=True):
        assert point[0] == pytest.approx(np.linalg.norm(point[1:4]), rel=1e-5)
        assert target == (classes[tuple(point[1:].tolist())] + 256) % 256
    assert (frame.target[~occupied] == 255).all()
    assert np.array_equal(frame.depth > 0, occupied)
    assert {*frame.target[occupied].tolist()} <= {*range(19), 255}
    assert len({LEARNING_MAP[label] for label in SCAN_LABELS}) == 20


def test_batches_hold_image_points_and_target_of_one_size(root: Path) -> None:
    data = ready(root, batch_size=2, crop=(30, 90))
    assert data.modalities == ("image", "lidar")
    assert data.num_classes == 19
    batch = next(iter(data.val_dataloader()))
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "image": (2, 3, 30, 90),
        "lidar": (2, 5, 30, 90),
        "target": (2, 30, 90),
        "index": (2,),
    }
    frame = data.make_frames()[1][1]
    assert frame.lidar is not None
    cut = frame.lidar[2:, 3:93]
    expected = np.where(
        cut[..., :1] > 0, (cut - np.array(FEATURE_MEANS, np.float32)) / np.array(FEATURE_STDS, np.float32), 0
    ).transpose(2, 0, 1)
    np.testing.assert_allclose(batch["lidar"][1].numpy(), expected, atol=1e-6)
    assert np.array_equal(batch["target"][1].numpy(), frame.target[2:, 3:93])


def test_frames_are_cut_to_the_smallest_size_of_a_sequence_by_default(tmp_path: Path) -> None:
    write_semantic_kitti(tmp_path, count=1, size=(376, 1241))
    data = ready(tmp_path, crop=SemanticKITTI(tmp_path).crop)
    assert data.splits.val[0]["target"].shape == (370, 1226)


def test_the_geometry_of_the_points_is_there_when_asked_for(root: Path) -> None:
    data = ready(root, geometry=["depth"])
    assert data.modalities == ("image", "lidar", "depth")
    sample = data.splits.val[0]
    assert np.array_equal(sample["depth"][0] > 0, sample["lidar"].any(0))


def test_augmentation_keeps_points_and_labels_together(root: Path) -> None:
    augmentation = PairedAugmentation(scale=(1, 1), rotation=15, crop=(24, 64))
    data = ready(root, batch_size=4, augmentation=augmentation)
    for batch in (next(iter(data.train_dataloader())) for _ in range(3)):
        assert batch["lidar"].shape == (4, 5, 24, 64)
        labelled = batch["target"] != 255
        assert labelled.float().mean() > 0.05
        assert batch["lidar"].any(1)[labelled].all()
        # the range, undone, is that of x, y and z
        features = batch["lidar"].permute(0, 2, 3, 1)[labelled].double()
        distance, *place, _ = (features * torch.tensor(FEATURE_STDS) + torch.tensor(FEATURE_MEANS)).T
        torch.testing.assert_close(distance, torch.stack(place).norm(dim=0), rtol=1e-4, atol=1e-4)


def test_splits_are_the_sequences_asked_for_and_the_published_ones_by_default(tmp_path: Path) -> None:
    write_semantic_kitti(tmp_path, count=1, sequences=range(11))
    train, val, test = names(SemanticKITTI(tmp_path))
    assert train == [f"sequences/{sequence:02d}/image_2/000000" for sequence in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10)]
    assert val == test == ["sequences/08/image_2/000000"]
    chosen = SemanticKITTI(tmp_path, train_sequences=[4], val_sequences=[7, 6], test_sequences=[5])
    assert names(chosen) == [[f"sequences/{s:02d}/image_2/000000" for s in part] for part in ([4], [7, 6], [5])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_sequences": []}, r"train_sequences must be one or more different sequences, got \[\]"),
        ({"val_sequences": [8, 8]}, r"val_sequences must be one or more different sequences, got \[8, 8\]"),
        ({"test_sequences": [22]}, r"test_sequences must lie in \[0, 21\], got 22"),
        ({"test_sequences": [0]}, "sequence 0 is in train_sequences and in test_sequences"),
        ({"crop": (0, 8)}, "crop_height must be at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        module(Path("root"), **arguments)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("image_2/000002.png", "image_2 holds no image for 1 of 4 scans, the first is .*000002.bin"),
        ("velodyne/000002.bin", "velodyne holds no scan for 1 of 4 labels, the first is .*000002.label"),
        ("labels/000002.label", "labels holds no labels for 1 of 4 scans, the first is .*000002.bin"),
        ("calib.txt", "00/calib.txt is not there: unpack data_odometry_calib.zip"),
    ],
)
def test_a_missing_file_is_named(root: Path, gone: str, message: str) -> None:
    (root / "sequences" / "00" / gone).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        module(root).make_frames()


@pytest.mark.parametrize(("folder", "archive"), [("image_2", "color"), ("velodyne", "velodyne"), ("labels", "labels")])
def test_a_missing_folder_names_the_archive(root: Path, folder: str, archive: str) -> None:
    (root / "sequences" / "08" / folder).rename(root / "elsewhere")
    message = f"^{root} holds no sequences/08/{folder}: unpack data_odometry_{archive}.zip there$"
    with pytest.raises(FileNotFoundError, match=message):
        module(root).make_frames()


def test_a_sequence_without_scans_and_a_wrong_root_are_refused(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"but {root} does: give that as root$"):
        module(root.parent).make_frames()
    for path in (root / "sequences" / "00" / "velodyne").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"velodyne holds no scans, which are named like 000000\.bin$"):
        module(root).make_frames()


def test_damaged_files_are_named(root: Path) -> None:
    folder = root / "sequences" / "00"
    frames = module(root).make_frames()[0]
    (folder / "labels" / "000000.label").write_bytes(bytes(8))
    with pytest.raises(ValueError, match=r"000000\.label has 8 bytes, but labels of 3000 points have 12000$"):
        frames[0]
    (folder / "velodyne" / "000001.bin").write_bytes(bytes(7))
    with pytest.raises(ValueError, match=r"000001\.bin has 7 bytes, but a scan has 16 a point$"):
        frames[1]
    write(folder / "calib.txt", ODOMETRY_CALIBRATION.replace("Tr:", "Tr_velo:"))
    with pytest.raises(
        ValueError, match=r"calib\.txt should hold the lines P2, P3 and Tr with 12 numbers each, but lacks Tr$"
    ):
        module(root).make_frames()
