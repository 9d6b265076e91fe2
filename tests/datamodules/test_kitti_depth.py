from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from datamodules import Batch, KITTIDepth, PairedAugmentation
from datamodules.serving.frame_pairs import FramePairs
from tests.datamodules.trees import (
    KITTI_TEST_DRIVE,
    KITTI_TRAIN_DRIVES,
    save,
    stored,
    write,
    write_kitti_depth,
    write_raw_calibration,
)

SIZE = (356, 1227)
TOP, LEFT = 4, 5
IMAGE = "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000000"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kitti_depth(tmp_path_factory.mktemp("kitti"))


def ready(root: Path, *, lists: bool = True, **arguments: Any) -> KITTIDepth:
    if lists:
        arguments = {"train_list": root / "train.txt", "test_list": root / "test.txt"} | arguments
    module = KITTIDepth(root / "raw", root / "depth", **arguments)
    module.setup()
    return module


def names(module: KITTIDepth) -> list[list[str]]:
    parts: list[list[str]] = []
    for split in module.splits:
        assert isinstance(split, FramePairs)
        parts.append(list(split.names))
    return parts


def places(image: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row modulo 256, which the trees' images tell in red and green."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    red, green, _ = (255 * (image * std + mean)).round()
    return red, green


def link_tree(root: Path, tree: Path) -> Path:
    """A tree whose files can be replaced, and not changed."""
    for path in tree.rglob("*"):
        if path.is_file():
            copy = root / path.relative_to(tree)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.hardlink_to(path)
    return root


def test_batches_hold_the_benchmarks_crop_of_image_and_depth(tree: Path) -> None:
    module = ready(tree)
    assert module.modalities == ("image",)
    assert module.num_classes is None
    assert module.frame_size == (352, 1216)
    (batch,) = module.test_dataloader()
    assert list(batch) == ["image", "target", "index"]
    assert batch["image"].shape == (1, 3, 352, 1216)
    assert batch["target"].dtype == torch.float32
    truth = (
        stored(tree / "depth" / KITTI_TEST_DRIVE / "proj_depth/groundtruth/image_02/0000000000.png").astype(np.float64)
        / 256
    )
    assert np.array_equal(batch["target"][0, 0].numpy(), truth[TOP:, LEFT : LEFT + 1216])
    assert (batch["target"] > 0).float().mean() == pytest.approx(1 / 3, abs=1e-3)
    columns, rows = places(batch["image"][0])
    assert [float(values) for values in (columns[0, 0], rows[0, 0], rows[-1, 0])] == [LEFT, TOP, (SIZE[0] - 1) % 256]


def test_without_the_crop_frames_keep_their_size(tree: Path) -> None:
    module = ready(tree, kb_crop=False)
    assert module.frame_size is None
    assert next(iter(module.test_dataloader()))["target"].shape == (1, 1, *SIZE)


def test_images_without_ground_truth_are_left_out_or_trained_on_as_asked(tree: Path) -> None:
    train, val, test = names(ready(tree))
    assert train == [f"{drive[:10]}/{drive}/image_02/data/0000000000" for drive in KITTI_TRAIN_DRIVES]
    assert val == test == [IMAGE]
    module = ready(tree, train_without_depth=True)
    assert [len(part) for part in names(module)] == [6, 1, 1]
    assert [bool(module.splits.train[position]["target"].any()) for position in range(6)] == [True, False] * 3


def test_whole_drives_can_be_held_out_for_validation(tree: Path) -> None:
    train, val, test = names(ready(tree, val_drives=1, train_without_depth=True))
    assert len(val) == 2
    assert len({name.split("/")[1] for name in val}) == 1
    assert sorted(train + val) == sorted(names(ready(tree, train_without_depth=True))[0])
    assert test == [IMAGE]
    assert len({tuple(names(ready(tree, val_drives=1, seed=seed))[1]) for seed in range(6)}) > 1


def test_other_layouts_of_the_same_files_are_found(tree: Path, tmp_path: Path) -> None:
    expected = names(ready(tree, train_without_depth=True))
    root = link_tree(tmp_path / "kitti", tree)
    for path in sorted((root / "raw").rglob("*.png")):
        save(path.with_suffix(".jpg"), np.zeros((*SIZE, 3), np.uint8))
        path.unlink()
    for drive in KITTI_TRAIN_DRIVES:
        (root / "depth" / "train").mkdir(exist_ok=True)
        (root / "depth" / drive).rename(root / "depth" / "train" / drive)
    (root / "depth" / "val").mkdir()
    (root / "depth" / KITTI_TEST_DRIVE).rename(root / "depth" / "val" / KITTI_TEST_DRIVE)
    for name in ("train.txt", "test.txt"):
        # as BTS writes them
        lines = (tree / name).read_text().splitlines()
        (root / name).unlink()
        write(root / name, "\n".join(line.split("/", 1)[1] for line in lines) + "\n\n")
    assert names(ready(root, train_without_depth=True)) == expected
    # without lists, the folders decide, and what has no ground truth is unknown
    assert names(ready(root, lists=False)) == names(ready(tree))


def test_training_cuts_windows_at_random_that_stay_registered(tree: Path) -> None:
    augmentation = PairedAugmentation(
        0.5, (1, 1), brightness=0, contrast=0, saturation=0, hue=0, rotation=0, crop=(352, 704)
    )
    batches = [batch for _ in range(6) for batch in ready(tree, augmentation=augmentation).train_dataloader()]
    firsts = set()
    for batch in batches:
        assert batch["image"].shape == (3, 3, 352, 704)
        for image, target in zip(batch["image"], batch["target"][:, 0], strict=True):
            columns, rows = places(image)
            measured = target > 0
            assert measured.float().mean() == pytest.approx(1 / 3, abs=0.01)
            assert torch.equal((256 * target[measured]) % 256, columns[measured])
            assert torch.equal(rows[:, 0], (torch.arange(352) + TOP) % 256)
            firsts.add(float(columns[0, 0]))
    assert len(firsts) > 10
    assert next(iter(ready(tree, augmentation=augmentation).val_dataloader()))["image"].shape == (1, 3, 352, 1216)


def write_responses(folder: Path, size: tuple[int, int], unit: float = 80 / 65535) -> Path:
    """Maps whose count is the column, for the test split."""
    counts = np.broadcast_to(np.arange(size[1], dtype=np.uint16), size)
    save(folder / f"{IMAGE}.png", np.ascontiguousarray(counts))
    write(folder / "responses.json", json.dumps({"metres_per_unit": unit}))
    return folder


def responses_to_test(root: Path, responses: Path, **arguments: Any) -> Batch:
    module = KITTIDepth(
        root / "raw",
        root / "depth",
        train_list=root / "train.txt",
        test_list=root / "test.txt",
        responses=responses,
        **arguments,
    )
    module.setup("test")
    return next(iter(module.test_dataloader()))


def test_responses_are_cropped_as_their_images_unless_they_were_already(tree: Path, tmp_path: Path) -> None:
    whole = responses_to_test(tree, write_responses(tmp_path / "whole", SIZE))["teacher_prediction"]
    assert whole.shape == (1, 1, 352, 1216)
    assert whole.dtype == torch.float32
    expected = (torch.arange(1216) + LEFT) * (80 / 65535)
    torch.testing.assert_close(whole[0, 0, 7], expected.float())
    cropped = responses_to_test(tree, write_responses(tmp_path / "cropped", (352, 1216)))["teacher_prediction"]
    torch.testing.assert_close(cropped[0, 0, 7], torch.arange(1216) * (80 / 65535))


def test_a_response_of_another_size_is_named_with_both_sizes(tree: Path, tmp_path: Path) -> None:
    folder = write_responses(tmp_path, (176, 608))
    message = rf"^{folder}/{IMAGE}.png is 176 x 608, but its frame 356 x 1227 or 352 x 1216$"
    with pytest.raises(ValueError, match=message):
        responses_to_test(tree, folder)


def test_missing_responses_are_counted_before_training(tree: Path, tmp_path: Path) -> None:
    folder = write_responses(tmp_path, SIZE)
    with pytest.raises(
        FileNotFoundError, match=rf"{folder} holds no response for 3 of 3 frames, the first is 2011_09_26/"
    ):
        ready(tree, responses=folder)


def write_flat_responses(folder: Path, images: list[str]) -> Path:
    """As TIE-KD's released code names and stores them: the counts are the column, in the size of the whole image."""
    counts = np.ascontiguousarray(np.broadcast_to(np.arange(SIZE[1], dtype=np.uint16), SIZE))
    for image in images:
        save(folder / f"{image.replace('/', '_')}.png", counts)
    return folder


def test_responses_of_the_released_code_of_tie_kd_are_read_as_they_are(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = [f"{drive[:10]}/{drive}/image_02/data/0000000000" for drive in KITTI_TRAIN_DRIVES]
    folder = write_flat_responses(tmp_path / "gt_kd_adabins", train)
    assert (folder / "2011_09_26_2011_09_26_drive_0057_sync_image_02_data_0000000000.png").is_file()
    write_flat_responses(tmp_path / "gt_kd_adabins_val", [IMAGE])
    with caplog.at_level("INFO"):
        module = ready(tree, responses=folder)
    assert "3 PNG files are read in the unit of TIE-KD's released code, 0.00122072 m" in caplog.text
    # its KDLoadAnnotations computes counts / 65535 * 80, before the crop
    expected = (torch.arange(1216, dtype=torch.float64) + LEFT) / 65535 * 80
    for split in (module.splits.train, module.splits.val):
        torch.testing.assert_close(split[0]["teacher_prediction"][0, 7].double(), expected, rtol=1e-6, atol=0)
    (folder / "2011_10_03_2011_10_03_drive_0034_sync_image_02_data_0000000000.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"^{folder} holds no response for 1 of 3 frames, the first is 2011_1"):
        ready(tree, responses=folder)


@pytest.mark.parametrize(("name", "val"), [("gt_kd_adabins2", "gt_kd_adabins_val2"), ("b", "b_val")])
def test_a_folder_of_flat_responses_may_name_its_unit_and_has_one_beside_it_to_validate_on(
    tree: Path, tmp_path: Path, name: str, val: str
) -> None:
    (tmp_path / name).mkdir()
    write(tmp_path / name / "responses.json", json.dumps({"metres_per_unit": 1 / 256}))
    write_flat_responses(tmp_path / val, [IMAGE])
    depth = responses_to_test(tree, tmp_path / name)["teacher_prediction"]
    torch.testing.assert_close(depth[0, 0, 7], (torch.arange(1216) + LEFT) / 256)


def test_heights_follow_the_camera_of_each_day(tmp_path: Path) -> None:
    root = write_kitti_depth(tmp_path, count=2)
    days = {"2011_09_26": (721.5377, 609.5593, 172.854), "2011_09_28": (707.0493, 604.0814, 180.5066)}
    days["2011_10_03"] = (718.856, 607.1928, 185.2157)
    for day, camera in list(days.items())[1:]:  # that of 26 September is known without a file
        write_raw_calibration(root / "raw", day, *camera)
    module = ready(root, geometry=["hha"], kb_crop=False)
    row, column = 300, 600
    # metres above the ground of a point that lies 1 + column / 256 m ahead, below a camera at 1.65 m; HHA's 1 is 10 m
    heights = [1.65 - (1 + column / 256) * (row - cy) / focal_length for focal_length, _, cy in days.values()]
    found = [float(module.splits.train[number]["hha"][1, row, column]) * 10 for number in range(3)]
    np.testing.assert_allclose(found, heights, atol=1e-5)
    assert max(heights) - min(heights) > 0.05  # about 0.17 m at 10 m
    cameras = [frame.camera for frame in module.splits.train.frames.files]  # type: ignore[attr-defined]
    assert [(camera.fx, camera.cx, camera.cy) for camera in cameras] == list(days.values())
    (root / "raw" / "2011_10_03" / "calib_cam_to_cam.txt").unlink()
    message = (
        r"2011_10_03/calib_cam_to_cam\.txt is not there, and normal and hha need that day's camera: unpack 2011_10_"
    )
    with pytest.raises(FileNotFoundError, match=message):
        ready(root, geometry=["hha"])
    assert len(ready(root, geometry=["depth"]).splits.train) == 3  # type: ignore[arg-type]


def test_lists_without_a_focal_length_and_those_of_monodepth2_are_read(tmp_path: Path) -> None:
    root = write_kitti_depth(tmp_path, count=2)
    expected = names(ready(root))
    right = [IMAGE.replace("image_02", "image_03"), KITTI_TEST_DRIVE + "/proj_depth/groundtruth/image_03/0000000000"]
    for folder, path in zip(("raw", "depth"), right, strict=True):
        (root / folder / path).parent.mkdir(parents=True)
        (root / folder / f"{path}.png").hardlink_to(root / folder / f"{path.replace('image_03', 'image_02')}.png")
    write_raw_calibration(root / "raw", "2011_09_26", 721.5377, 609.5593, 172.854)
    for name in ("train", "test"):
        lines = [line.split() for line in (root / f"{name}.txt").read_text().splitlines()]
        # as kitti_benchmark_train.txt of the toolbox
        write(root / f"{name}_2.txt", "".join(f"{image} {depth}\n" for image, depth, _ in lines))
        # as monodepth2's eigen_zhou/train_files.txt and eigen/test_files.txt, where numbers have all digits
        digits = "d" if name == "train" else "010d"
        drives = [(image.rsplit("/", 3)[0], int(Path(image).stem)) for image, _, _ in lines]
        write(root / f"{name}_m.txt", "".join(f"{drive} {number:{digits}} l\n" for drive, number in drives))
    for kind in "2m":
        lists: dict[str, Any] = {f"{name}_list": root / f"{name}_{kind}.txt" for name in ("train", "test")}
        assert names(ready(root, **lists)) == expected
        assert len(ready(root, **lists, train_without_depth=True).splits.train) == 6  # type: ignore[arg-type]
    write(root / "right.txt", f"2011_09_26/{KITTI_TEST_DRIVE} 0 r\n{IMAGE}.png None\n")
    module = ready(root, train_list=root / "right.txt", train_without_depth=True)
    assert names(module)[0] == [right[0], IMAGE]
    cameras = [frame.camera for frame in module.splits.train.frames.files]  # type: ignore[attr-defined]
    assert [camera.cx for camera in cameras] == pytest.approx([617.5593, 609.5593])


def test_one_list_alone_and_folders_without_a_split_are_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"train_list and test_list go together, got a\.txt and None"):
        KITTIDepth("raw", "depth", train_list="a.txt")
    with pytest.raises(ValueError, match="val_drives must be at least 0, got -1"):
        KITTIDepth("raw", "depth", val_drives=-1)
    with pytest.raises(
        FileNotFoundError, match=r"holds no train: unpack data_depth_annotated\.zip there, or give train_l"
    ):
        ready(tree, lists=False)
    with pytest.raises(ValueError, match="val_drives 3 must be less than the 3 training drives"):
        ready(tree, val_drives=3)
    with pytest.raises(FileNotFoundError, match=r"^raw_dir nowhere is not a folder$"):
        KITTIDepth("nowhere", tree / "depth").setup()


def test_a_list_that_does_not_fit_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the list nowhere\.txt is not a file"):
        ready(tree, train_list="nowhere.txt")
    path = tmp_path / "list.txt"
    for line in ("a.png", "a.png b.png 700 700", "a.png b.png 0", "a.png b.png left", "2011_09_26/a_sync first l"):
        write(path, f"a.png b.png 700\n{line}\n")
        with pytest.raises(
            ValueError, match=rf"^line 2 of {path} should be an image, a depth map or None, .* but is '{line}'$"
        ):
            ready(tree, train_list=path)
    write(path, "kitchen/rgb_1.jpg kitchen/sync_depth_1.png 518.9\n")
    with pytest.raises(FileNotFoundError, match="1 of 1 listed images are not there"):
        ready(tree, train_list=path)
    write(path, "2011_09_26/a/image_02/data/1.png None 700\n2011_09_26/b/image_02/data/1.png None 700\n")
    with pytest.raises(ValueError, match="there is no ground truth for any image to train on"):
        ready(tree, train_list=path)
    with pytest.raises(
        FileNotFoundError, match=rf"^2 of 2 listed images are not there, the first is {tree}/raw/2011_09_26/a/image_02"
    ):
        ready(tree, train_list=path, train_without_depth=True)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.9])
def test_a_damaged_depth_map_is_named(tree: Path, tmp_path: Path, kept: float) -> None:
    root = link_tree(tmp_path, tree)
    path = root / "depth" / KITTI_TEST_DRIVE / "proj_depth/groundtruth/image_02/0000000000.png"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: round(kept * len(content))])
    with pytest.raises(ValueError, match=rf"^{path} cannot be read"):
        next(iter(ready(root).test_dataloader()))


def test_an_image_smaller_than_the_crop_is_named(tmp_path: Path) -> None:
    root = write_kitti_depth(tmp_path, size=(340, 1220))
    message = r"^frame 0 \(2011_.*/0000000000\) has 340 x 1220 pixels, too few for a crop of 352 x 1216$"
    with pytest.raises(ValueError, match=message):
        ready(root)
