from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.cityscapes import Cityscapes
from tests.datamodules.test_kitti_semantics import TRAIN_IDS
from tests.datamodules.trees import CITYSCAPES_CAMERA, SIZE, save, stored, write, write_cityscapes

AACHEN = "train/aachen/aachen_000001_000019"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cityscapes(tmp_path / "cityscapes")


def stems(root: Path, **arguments: object) -> list[list[str]]:
    """Split, city and stem of the images in the three splits."""
    splits = Cityscapes(root, **arguments).make_frames()  # type: ignore[arg-type]
    folder = root / "leftImg8bit"
    return [
        [files.image.relative_to(folder).as_posix().removesuffix("_leftImg8bit.png") for files in split.files]  # type: ignore[attr-defined]
        for split in splits
    ]


def test_a_frame_holds_what_was_written(root: Path) -> None:
    for split, names in zip(Cityscapes(root).make_frames(), stems(root), strict=True):
        image, depth, target, camera, _ = split[1]
        assert np.array_equal(image, stored(root / "leftImg8bit" / f"{names[1]}_leftImg8bit.png"))
        labels = stored(root / "gtFine" / f"{names[1]}_gtFine_labelIds.png")
        assert target.tolist() == [[TRAIN_IDS[label] for label in row] for row in labels.tolist()]
        disparity = stored(root / "disparity" / f"{names[1]}_disparity.png").astype(float)
        measured = disparity > 0
        assert (depth[~measured] == 0).all()
        metres = 2262.52 * 0.209313 / ((disparity[measured] - 1) / 256)
        np.testing.assert_allclose(depth[measured], metres, rtol=1e-5)
        assert [values.dtype.name for values in (image, depth, target)] == ["uint8", "float32", "uint8"]
        assert camera == (2262.52, 2265.3017905988554, 1096.98, 513.137, 0.209313, 1.22, 0.038)


def test_stored_disparity_is_shifted_by_one_and_none_is_no_depth(root: Path) -> None:
    camera = {
        "extrinsic": {"baseline": 0.2, "z": 1.2, "pitch": 0.04},
        "intrinsic": {"fx": 2000, "fy": 2001, "u0": 1, "v0": 2},
    }
    for path in (root / "disparity").rglob("*.png"):
        save(path, np.resize(np.array([0, 1, 2, 257, 8 * 256 + 1], np.uint16), SIZE))
    for path in (root / "camera").rglob("*.json"):
        write(path, json.dumps(camera))
    depth = Cityscapes(root).make_frames()[2][0].depth
    # 400 over disparities of none, 0, 1/256, 1 and 8 pixels
    assert depth.ravel()[:5].tolist() == [0, 0, 102400, 400, 50]


def test_training_cities_are_held_out_for_validation_by_seed(root: Path) -> None:
    train, val, test = stems(root, val_cities=1)
    assert (len(train), len(val), len(test)) == (6, 2, 2)
    assert len({name.split("/")[1] for name in val}) == 1
    assert not {name.split("/")[1] for name in val} & {name.split("/")[1] for name in train}
    assert len({*train, *val}) == 8
    assert {name.split("/")[0] for name in train + val} == {"train"}
    assert test == ["val/frankfurt/frankfurt_000000_000019", "val/frankfurt/frankfurt_000001_000019"]
    assert stems(root, val_cities=1) == [train, val, test]
    assert len({tuple(stems(root, val_cities=1, seed=seed)[1]) for seed in range(8)}) > 1


def test_three_cities_are_held_out_by_default(root: Path) -> None:
    assert [len(split) for split in stems(root)] == [2, 6, 2]


def test_no_validation_city_gives_the_usual_protocol(root: Path) -> None:
    train, val, test = stems(root, val_cities=0)
    assert len(train) == 8
    assert val == test
    assert {name.split("/")[0] for name in val} == {"val"}


def test_other_files_of_the_archives_are_left_alone(root: Path) -> None:
    before = stems(root)
    for name in (
        f"gtFine/{AACHEN}_gtFine_color.png",
        f"gtFine/{AACHEN}_gtFine_polygons.json",
        "leftImg8bit/train/aachen/._aachen_000001_000019_leftImg8bit.png",
        "leftImg8bit/train/.DS_Store",
        "license.txt",
    ):
        (root / name).touch()
    save(
        root / "leftImg8bit" / "test" / "berlin" / "berlin_000000_000019_leftImg8bit.png",
        np.zeros((*SIZE, 3), np.uint8),
    )
    assert stems(root) == before


@pytest.mark.parametrize("kind", ["leftImg8bit", "gtFine", "disparity", "camera"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_folder_names_the_archive(root: Path, kind: str, split: str) -> None:
    (root / kind / split).rename(root / kind / "elsewhere")
    message = f"^{root} holds no {kind}/{split}: unpack {kind}_trainvaltest.zip there$"
    with pytest.raises(FileNotFoundError, match=message):
        Cityscapes(root).make_frames()


def test_a_root_above_or_below_the_right_one_is_recognised(root: Path) -> None:
    for wrong in (root.parent, root / "leftImg8bit"):
        with pytest.raises(FileNotFoundError, match=f"but {root} does: give that as root$"):
            Cityscapes(wrong).make_frames()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (f"gtFine/{AACHEN}_gtFine_labelIds.png", "gtFine/train holds no label for 1 of 8 images"),
        (f"disparity/{AACHEN}_disparity.png", "disparity/train holds no disparity for 1 of 8 images"),
        (f"camera/{AACHEN}_camera.json", "camera/train holds no camera for 1 of 8 images"),
        (f"leftImg8bit/{AACHEN}_leftImg8bit.png", "leftImg8bit/train holds no image for 1 of 8 labels"),
    ],
)
def test_an_unpaired_file_is_named(root: Path, gone: str, message: str) -> None:
    (root / gone).unlink()
    with pytest.raises(FileNotFoundError, match=f"{message}, the first is .*aachen_000001_000019"):
        Cityscapes(root).make_frames()


def test_a_city_without_labels_is_an_unpaired_file(root: Path) -> None:
    (root / "gtFine" / "train" / "bochum").rename(root / "bochum")
    with pytest.raises(FileNotFoundError, match=r"holds no label for 2 of 8 images, the first is .*bochum_000000"):
        Cityscapes(root).make_frames()


def test_a_split_without_images_is_refused(root: Path) -> None:
    for path in (root / "leftImg8bit" / "val").rglob("*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="leftImg8bit/val holds no images, which are named like"):
        Cityscapes(root).make_frames()


def test_a_wrong_size_is_found_before_anything_is_read(root: Path) -> None:
    path = save(root / "disparity" / f"{AACHEN}_disparity.png", np.zeros((12, 20), np.uint16))
    with pytest.raises(ValueError, match=f"^{path} is 20 x 12 pixels, its image .*aachen_000001.* is 40 x 12$"):
        Cityscapes(root).make_frames()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps({**CITYSCAPES_CAMERA, "intrinsic": {"fx": 1, "fy": None}})]
)
def test_a_camera_file_without_the_numbers_is_refused(root: Path, text: str) -> None:
    path = write(root / "camera" / f"{AACHEN}_camera.json", text)
    with pytest.raises(ValueError, match=f"^{path} should be JSON with intrinsic: fx, fy, u0, v0 and extrinsic: base"):
        Cityscapes(root).make_frames()


@pytest.mark.parametrize("label", [34, 254])
def test_a_label_of_no_class_is_named_when_it_is_read(root: Path, label: int) -> None:
    path = save(
        root / "gtFine" / "val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png", np.full(SIZE, label, np.uint8)
    )
    test = Cityscapes(root).make_frames()[2]
    with pytest.raises(ValueError, match=f"^{path} holds the label {label} in 480 pixels, Cityscapes' label ids are 0"):
        test[0]


def test_no_city_left_to_train_on_is_refused(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^val_cities 4 must be less than the 4 cities of .*leftImg8bit/train, or none"
    ):
        Cityscapes(root, val_cities=4).make_frames()
    with pytest.raises(ValueError, match=r"^val_cities must be at least 0, got -1$"):
        Cityscapes(root, val_cities=-1)


def test_batches_hold_image_depth_and_target(root: Path) -> None:
    module = Cityscapes(root, size=(8, 32), batch_size=2)
    module.setup()
    batch = next(iter(module.test_dataloader()))
    assert batch["image"].shape == (2, 3, 8, 32)
    assert batch["depth"].shape == (2, 1, 8, 32)
    assert batch["target"].shape == (2, 8, 32)
    assert batch["target"].dtype == torch.int64
    assert module.num_classes == 19
