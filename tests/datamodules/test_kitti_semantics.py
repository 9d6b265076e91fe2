from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.kitti_semantics import KITTISemantics
from datamodules.reading.kitti_calibration import KITTI_CAMERA
from tests.datamodules.trees import KITTI_CALIBRATION, SIZE, save, stored, write, write_kitti_semantics

# of the official table: -1 and the ids that do not count give 255
TRAIN_IDS = [
    *(255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13),
    *(14, 15, 255, 255, 16, 17, 18),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_kitti_semantics(tmp_path / "kitti")


def names(root: Path, seed: int = 0) -> list[list[str]]:
    """The names of the images in the three splits."""
    splits = KITTISemantics(root, seed=seed).make_frames()
    return [[files.image.name for files in split.files] for split in splits]  # type: ignore[attr-defined]


def test_a_frame_holds_what_was_written(root: Path) -> None:
    train, _, _ = KITTISemantics(root).make_frames()
    name = names(root)[0][0]
    image, depth, target, *_ = train[0]
    folder = root / "training"
    assert np.array_equal(image, stored(folder / "image_2" / name))
    labels = stored(folder / "semantic" / name)
    assert target.tolist() == [[TRAIN_IDS[label] for label in row] for row in labels.tolist()]
    disparity = stored(folder / "disp_occ_0" / name).astype(float) / 256
    measured = disparity > 0
    assert 0.3 < measured.mean() < 0.7
    assert (depth[~measured] == 0).all()
    np.testing.assert_allclose(depth[measured], 721.5377 * 0.532725 / disparity[measured], rtol=1e-5)
    assert [values.dtype.name for values in (image, depth, target)] == ["uint8", "float32", "uint8"]


def test_a_known_disparity_gives_a_known_depth(root: Path) -> None:
    # 384.38148 / 32, from the calibration's (44.85728 + 339.5242) / fx
    for path in (root / "training" / "disp_occ_0").iterdir():
        save(path, np.full(SIZE, 32 * 256, np.uint16))
    depth = KITTISemantics(root).make_frames()[0][0].depth
    np.testing.assert_allclose(depth, 12.01192125, rtol=1e-6)


def test_all_label_ids_become_train_ids(root: Path) -> None:
    assert len(TRAIN_IDS) == 34
    for path in (root / "training" / "semantic").iterdir():
        save(path, np.resize(np.array([*range(34), 255], np.uint8), SIZE))
    target = KITTISemantics(root).make_frames()[0][0].target
    assert target.ravel()[:35].tolist() == [*TRAIN_IDS, 255]


def test_the_camera_is_read_from_the_calibration(root: Path) -> None:
    calibration = KITTI_CALIBRATION.replace("7.215377e+02", "7.000000e+02").replace("4.485728e+01", "1.475758e+01")
    for path in (root / "training" / "calib_cam_to_cam").iterdir():
        write(path, calibration)
    camera = KITTISemantics(root).make_frames()[0][0].camera
    # (14.75758 + 339.5242) / 700
    assert camera == pytest.approx((700.0, 700.0, 609.5593, 172.854, 0.506116829, 1.65, 0.0), abs=1e-8)


def test_without_calibration_the_camera_is_that_of_most_drives(root: Path) -> None:
    calibrated = KITTISemantics(root).make_frames()[0][0].camera
    for path in (root / "training" / "calib_cam_to_cam").iterdir():
        path.unlink()
    (root / "training" / "calib_cam_to_cam").rmdir()
    assert KITTISemantics(root).make_frames()[0][0].camera == KITTI_CAMERA
    assert pytest.approx(calibrated, rel=1e-6) == KITTI_CAMERA


def test_dense_disparity_comes_from_its_own_folder_arrays_first(root: Path, tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    for number in range(10):
        save(dense / f"{number:06d}_10.png", np.full(SIZE, 64 * 256, np.uint16))
    (root / "training" / "disp_occ_0").rename(tmp_path / "unused")
    # focal length times baseline, 384.38148, over 64
    depth = KITTISemantics(root, dense).make_frames()[0][0].depth
    np.testing.assert_allclose(depth, 6.005960625, rtol=1e-6)
    for number in range(10):
        np.save(dense / f"{number:06d}_10.npy", np.full(SIZE, 38.438148, np.float32))
    depth = KITTISemantics(root, str(dense)).make_frames()[0][0].depth
    np.testing.assert_allclose(depth, 10, rtol=1e-6)


def test_depth_is_zero_where_a_dense_disparity_is_no_positive_number(root: Path, tmp_path: Path) -> None:
    for number in range(10):
        disparity = np.resize(np.array([0, -1, np.nan, np.inf, -np.inf, 384.38148], np.float32), SIZE)
        np.save(tmp_path / f"{number:06d}_10.npy", disparity)
    depth = KITTISemantics(root, tmp_path).make_frames()[0][0].depth
    np.testing.assert_allclose(depth.ravel()[:6], [0, 0, 0, 0, 0, 1], rtol=1e-6)


def test_splits_are_7_to_3_by_seed_and_the_test_is_the_validation(root: Path) -> None:
    train, val, test = names(root)
    assert (len(train), len(val)) == (7, 3)
    assert sorted(train + val) == [f"{number:06d}_10.png" for number in range(10)]
    assert test == val
    assert names(root) == [train, val, test]
    assert any(names(root, seed=seed)[1] != val for seed in (1, 2))


def test_files_beside_the_labelled_images_are_left_alone(root: Path) -> None:
    before = names(root)
    folder = root / "training"
    for name in ("000000_11.png", "._000000_10.png", ".DS_Store"):
        (folder / "image_2" / name).touch()
        (folder / "disp_occ_0" / name).touch()
    save(folder / "disp_occ_0" / "000099_10.png", np.ones(SIZE, np.uint16))
    assert names(root) == before


def test_classes_are_the_19_of_cityscapes_in_the_official_colours() -> None:
    assert len(KITTISemantics.class_names) == len(KITTISemantics.palette) == 19
    colors = dict(zip(KITTISemantics.class_names, KITTISemantics.palette, strict=True))
    assert list(colors)[:3] == ["road", "sidewalk", "building"]
    assert list(colors)[-1] == "bicycle"
    assert colors["road"] == (128, 64, 128)
    assert colors["car"] == (0, 0, 142)
    assert colors["sky"] == (70, 130, 180)


@pytest.mark.parametrize("folder", ["image_2", "semantic"])
def test_a_missing_folder_names_the_archive(root: Path, folder: str) -> None:
    (root / "training" / folder).rename(root / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=f"^{root} holds no training/{folder}: unpack data_semantics.zip there$"
    ):
        KITTISemantics(root).make_frames()


def test_missing_disparity_names_the_archive_and_the_argument(root: Path, tmp_path: Path) -> None:
    (root / "training" / "disp_occ_0").rename(tmp_path / "elsewhere")
    message = f"^{root} holds no training/disp_occ_0: unpack data_scene_flow.zip there, or give disparity_dir$"
    with pytest.raises(FileNotFoundError, match=message):
        KITTISemantics(root).make_frames()
    with pytest.raises(FileNotFoundError, match=f"^disparity_dir {tmp_path / 'none'} is not a folder$"):
        KITTISemantics(root, tmp_path / "none").make_frames()


def test_a_root_above_or_below_the_right_one_is_recognised(root: Path) -> None:
    for wrong in (root.parent, root / "training"):
        with pytest.raises(FileNotFoundError, match=f"but {root} does: give that as root$"):
            KITTISemantics(wrong).make_frames()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("semantic/000003_10.png", "semantic holds no label for 1 of 10 images, the first is .*000003_10.png"),
        ("image_2/000003_10.png", "image_2 holds no image for 1 of 10 labels, the first is .*000003_10.png"),
        ("disp_occ_0/000003_10.png", "disp_occ_0 holds no disparity for 1 of 10 images, the first is .*000003_10.png"),
        ("calib_cam_to_cam/000003.txt", "cam holds no calibration for 1 of 10 images, the first is .*000003_10.png"),
    ],
)
def test_an_unpaired_file_is_named(root: Path, gone: str, message: str) -> None:
    (root / "training" / gone).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        KITTISemantics(root).make_frames()


def test_an_empty_folder_of_images_is_refused(root: Path) -> None:
    for path in (root / "training" / "image_2").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"image_2 holds no images, which are named like 000000_10\.png$"):
        KITTISemantics(root).make_frames()


def test_a_single_image_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a split 7:3 leaves a part empty: there are too few images, 1$"):
        KITTISemantics(write_kitti_semantics(tmp_path, count=1)).make_frames()


def test_a_wrong_size_is_found_before_anything_is_read(root: Path) -> None:
    path = save(root / "training" / "semantic" / "000004_10.png", np.zeros((12, 39), np.uint8))
    with pytest.raises(ValueError, match=f"^{path} is 39 x 12 pixels, its image .*000004_10.png is 40 x 12$"):
        KITTISemantics(root).make_frames()


def test_a_label_of_no_class_is_named_when_it_is_read(root: Path) -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[3, 4:6] = 34
    for path in (root / "training" / "semantic").iterdir():
        save(path, labels)
    frames = KITTISemantics(root).make_frames()[0]
    with pytest.raises(ValueError, match=r"_10\.png holds the label 34 in 2 pixels, Cityscapes' label ids are 0 to 33"):
        frames[0]


def test_coloured_labels_are_refused_when_they_are_read(root: Path) -> None:
    for path in (root / "training" / "semantic").iterdir():
        save(path, np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match=r"semantic/.* cannot be read \(its pixels are of mode RGB, not 8-bit"):
        KITTISemantics(root).make_frames()[0][0]


@pytest.mark.parametrize("text", ["", "P_rect_02: 1 2 3\nP_rect_03: 1 2 3\n", KITTI_CALIBRATION.split("P_rect_03")[0]])
def test_a_calibration_without_the_projections_is_refused(root: Path, text: str) -> None:
    path = write(root / "training" / "calib_cam_to_cam" / "000002.txt", text)
    with pytest.raises(ValueError, match=f"^{path} should hold the lines P_rect_02 and P_rect_03 with 12 numbers each"):
        KITTISemantics(root).make_frames()


def test_batches_hold_image_depth_and_target(root: Path) -> None:
    module = KITTISemantics(root, size=(8, 32), batch_size=2)
    module.setup()
    batch = next(iter(module.val_dataloader()))
    assert batch["image"].shape == (2, 3, 8, 32)
    assert batch["depth"].shape == (2, 1, 8, 32)
    assert batch["target"].shape == (2, 8, 32)
    assert batch["target"].dtype == torch.int64
    assert module.num_classes == 19
