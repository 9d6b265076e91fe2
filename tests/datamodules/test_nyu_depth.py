from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from datamodules import NYUDepthV2
from datamodules.nyu_depth import NYU_CAMERA
from datamodules.serving.frame_pairs import FramePairs
from distill.metrics import DepthScores
from tests.datamodules.trees import stored, write, write_nyu_folders, write_nyu_labeled

LABELED = "nyu_depth_v2_labeled.mat"


def ready(root: Path, **arguments: Any) -> NYUDepthV2:
    module = NYUDepthV2(root, **arguments)
    module.setup()
    return module


def with_lists(root: Path, **arguments: Any) -> NYUDepthV2:
    return ready(root, train_list=root / "train.txt", test_list=root / "test.txt", **arguments)


def test_labelled_images_stand_upright_and_follow_the_official_split(tmp_path: Path) -> None:
    write_nyu_labeled(tmp_path)
    module = ready(tmp_path, geometry=["depth"])
    train, val, test = module.splits
    assert val.frames is test.frames  # type: ignore[attr-defined]
    assert train.names == [f"labeled/{number:05d}" for number in (0, 2, 4, 6)]  # type: ignore[attr-defined]
    with h5py.File(tmp_path / LABELED) as file:
        images, depths = file["images"][:], file["depths"][:]
    for part, first in ((train, 0), (test, 1)):
        assert isinstance(part, FramePairs)
        for position in range(4):
            frame, sample = part.frames[position], part[position]
            row, column = 3, 17
            assert frame.image[row, column].tolist() == images[first + 2 * position, :, column, row].tolist()
            assert frame.depth.shape == (12, 40)
            assert sample["target"].shape == (1, 12, 40)
            assert sample["target"][0, row, column] == depths[first + 2 * position, column, row]
            torch.testing.assert_close(sample["depth"], sample["target"] / 10)


def test_labels_become_the_40_classes_beside_image_and_depth(tmp_path: Path) -> None:
    write_nyu_labeled(tmp_path)
    module = ready(tmp_path, geometry=["depth"], target="classes", batch_size=4)
    assert module.modalities == ("image", "depth")
    assert module.num_classes == len(module.class_names) == len(module.palette) == 40
    with h5py.File(tmp_path / LABELED) as file:
        labels = file["labels"][1::2].astype(int)
    batch = next(iter(module.test_dataloader()))
    expected = np.where(labels > 0, (labels - 1) % 40, 255).transpose(0, 2, 1)
    assert {0, 255} < {*expected.ravel()[:400].tolist()}
    assert np.array_equal(batch["target"].numpy(), expected)
    assert batch["depth"].shape == (4, 1, 12, 40)
    assert ready(tmp_path).num_classes is None


def test_classes_and_their_colours_are_the_usual_ones() -> None:
    # in the order of the published class numbers
    assert " ".join(name.replace(" ", "_") for name in NYUDepthV2.class_names) == (
        "wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain "
        "dresser pillow mirror floor_mat clothes ceiling books refrigerator television paper towel shower_curtain box "
        "whiteboard person night_stand toilet sink lamp bathtub bag other_structure other_furniture other_prop"
    )
    colours = dict(zip(NYUDepthV2.class_names, NYUDepthV2.palette, strict=True))
    # those of labels 1, 2, 8 and 20 in PASCAL VOC's map
    assert colours["wall"] == (128, 0, 0)
    assert colours["floor"] == (0, 128, 0)
    assert colours["floor mat"] == (0, 64, 128)
    assert colours["door"] == (64, 0, 0)
    assert len({*colours.values()}) == 40


def test_a_label_that_the_mapping_has_not_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_nyu_labeled(tmp_path)
    savemat(tmp_path / "classMapping40.mat", {"mapClass": np.arange(1, 31)[None]})
    frames = ready(tmp_path, target="classes").splits.train.frames  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError, match=r"^image 0 of .* has the label 89\d, but classMapping40.mat maps the labels up to 30$"
    ):
        frames[0]


def test_a_mapping_that_is_missing_or_something_else_is_named(tmp_path: Path) -> None:
    write_nyu_labeled(tmp_path)
    path = tmp_path / "classMapping40.mat"
    for content, message in (
        ({"mapping": np.ones((1, 894))}, r"should hold mapClass and cannot be read \('mapClass'\)$"),
        ({"mapClass": np.arange(0, 41)}, "should hold mapClass with classes from 1 to 40$"),
    ):
        savemat(path, content)
        with pytest.raises(ValueError, match=f"^{path} {message}"):
            ready(tmp_path, target="classes")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} holds no classMapping40.mat: download it"):
        ready(tmp_path, target="classes")
    ready(tmp_path)


def test_the_camera_is_that_of_the_toolbox() -> None:
    # fx_rgb, fy_rgb, cx_rgb and cy_rgb of camera_params.m, for 480 x 640 pixels
    assert NYU_CAMERA[:4] == pytest.approx((518.857901, 519.469611, 325.582449, 253.736166), abs=1e-3)


def test_labels_of_another_shape_are_refused(tmp_path: Path) -> None:
    write_nyu_labeled(tmp_path)
    with h5py.File(tmp_path / LABELED, "a") as file:
        del file["labels"]
        file["labels"] = np.zeros((8, 12, 40), np.uint16)
    with pytest.raises(ValueError, match=r"should hold labels of the shape of depths, \(8, 40, 12\), but they have"):
        ready(tmp_path, target="classes")


def test_workers_read_what_the_main_process_reads(tmp_path: Path) -> None:
    write_nyu_labeled(tmp_path)
    alone, helped = (ready(tmp_path, batch_size=2, num_workers=workers) for workers in (0, 2))
    alone.splits.test[0]
    for one, two in zip(alone.test_dataloader(), helped.test_dataloader(), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in ("image", "target", "index"))


def test_folders_hold_millimetres_under_the_paths_of_the_lists(tmp_path: Path) -> None:
    root = write_nyu_folders(tmp_path)
    module = with_lists(root)
    names = [part.names for part in module.splits]  # type: ignore[attr-defined]
    assert names[0][0] == "train/kitchen_0028b/rgb_00000"
    assert names[1] == names[2] == ["test/bathroom/rgb_00000", "test/bathroom/rgb_00001"]
    expected = stored(root / "test" / "bathroom" / "sync_depth_00001.png").astype(np.float64) / 1000
    np.testing.assert_allclose(module.splits.test[1]["target"][0].numpy(), expected, rtol=1e-6)
    # a folder of one split is found as well
    module = NYUDepthV2(root / "train", train_list=root / "train.txt", test_list=root / "train.txt")
    module.setup()
    assert module.splits.train.names[0] == "kitchen_0028b/rgb_00000"  # type: ignore[attr-defined]


@pytest.mark.parametrize("root", ["nyu_depth_v2", "."])
@pytest.mark.parametrize("given", [True, False])
def test_the_folders_of_bts_and_adabins_are_found_with_their_lists(tmp_path: Path, root: str, given: bool) -> None:
    lists = ("nyudepthv2_train_files_with_gt.txt", "nyudepthv2_test_files_with_gt.txt")
    folder = write_nyu_folders(
        tmp_path / "nyu_depth_v2", folders=("sync", "official_splits/test"), lists=("../a.txt", "../b.txt")
    )
    if given:
        module = ready(tmp_path / root, train_list=tmp_path / "a.txt", test_list=tmp_path / "b.txt")
    else:
        for name, published in zip(("a.txt", "b.txt"), lists, strict=True):
            (tmp_path / name).rename(folder / published)
        module = ready(tmp_path / root)
    train, val, test = module.splits
    prefix = "" if root == "nyu_depth_v2" else "nyu_depth_v2/"
    assert len(train.names) == 4  # type: ignore[attr-defined]
    assert train.names[0] == f"{prefix}sync/kitchen_0028b/rgb_00000"  # type: ignore[attr-defined]
    assert val.names == test.names == [f"{prefix}official_splits/test/bathroom/rgb_0000{n}" for n in (0, 1)]  # type: ignore[attr-defined]
    for name, sample in (("sync/kitchen_0028b", train[1]), ("official_splits/test/bathroom", test[1])):
        expected = stored(folder / name / "sync_depth_00001.png").astype(np.float64) / 1000
        np.testing.assert_allclose(sample["target"][0].numpy(), expected, rtol=1e-6)


def test_the_crop_named_nyu_counts_the_pixels_that_the_published_code_evaluates() -> None:
    # eval_mask[45:471, 41:601] of 480 x 640: each pixel outside is wrong, and none of them counts
    target = torch.full((1, 1, 480, 640), 4.0)
    prediction = torch.full_like(target, 8.0)
    prediction[..., 45:471, 41:601] = 4.0
    scores = DepthScores(max_depth=10, crop="nyu")
    scores.update(prediction, target)
    assert scores.compute()["abs_rel"] == 0
    prediction[..., 45, 41] = prediction[..., 470, 600] = 8.0
    scores.reset()
    scores.update(prediction, target)
    assert float(scores.compute()["abs_rel"]) == pytest.approx(2 / (426 * 560), rel=1e-5)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} holds no {LABELED}: download it .* or give train_list"):
        ready(tmp_path)
    write_nyu_labeled(tmp_path)
    (tmp_path / "splits.mat").unlink()
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} holds no splits.mat"):
        ready(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^root nowhere is not a folder$"):
        ready(Path("nowhere"))
    root = write_nyu_folders(tmp_path / "folders")
    (root / "test" / "bathroom" / "sync_depth_00001.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"^1 of 2 listed depth maps are not there, the first is {root}/test/bath"
    ):
        with_lists(root)


def test_h5py_is_asked_for_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nyu_labeled(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"is read with h5py: pip install 'crossdistill\[nyu\]'"):
        ready(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_nyu_labeled(tmp_path)
    content = (tmp_path / LABELED).read_bytes()
    (tmp_path / LABELED).write_bytes(content[:3000])
    with pytest.raises(ValueError, match=rf"^{tmp_path / LABELED} cannot be read"):
        ready(tmp_path)
    (tmp_path / LABELED).write_bytes(content)
    write(tmp_path / "splits.mat", "no MATLAB")
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'splits.mat'} should hold trainNdxs and testNdxs"):
        ready(tmp_path)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1]]), "testNdxs": np.array([[9]])})
    with pytest.raises(ValueError, match=r"with N above 8, but holds \(8, 3, 40, 12\) and \(8, 40, 12\)"):
        ready(tmp_path)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[0]]), "testNdxs": np.array([[1]])})
    with pytest.raises(ValueError, match="which count from 1"):
        ready(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"geometry": ["hha"]}, "geometry cannot be hha"),
        (
            {"target": "classes", "train_list": "a.txt", "test_list": "b.txt"},
            "target cannot be classes with train_list and test_list, whose images have no labels",
        ),
        ({"test_list": "b.txt"}, r"train_list and test_list go together, got None and b\.txt"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NYUDepthV2("root", **arguments)
