from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.virtual_kitti2 import VARIATIONS, VKITTI2_CAMERA, VirtualKITTI2
from tests.datamodules.trees import SIZE, save, stored, write, write_virtual_kitti2

COLOR_LIST = """\
Terrain 210 0 200
Sky 90 200 255
Tree 0 199 0
Vegetation 90 240 0
Building 140 140 140
Road 100 60 100
GuardRail 250 100 255
TrafficSign 255 255 0
TrafficLight 200 200 0
Pole 255 130 0
Misc 80 80 80
Truck 160 60 60
Car 255 127 80
Van 0 139 139
Undefined 0 0 0"""
CLONE = Path("Scene01") / "clone"
FRAMES = CLONE / "frames"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_virtual_kitti2(tmp_path / "vkitti2")


def data(root: Path, **arguments: object) -> VirtualKITTI2:
    return VirtualKITTI2(root, **{"n_images": None, **arguments})  # type: ignore[arg-type]


def images(root: Path, **arguments: object) -> list[list[Path]]:
    """The images of the three splits, below the root."""
    splits = data(root, **arguments).make_frames()
    return [[files.image.relative_to(root) for files in split.files] for split in splits]  # type: ignore[attr-defined]


def test_a_frame_holds_what_was_written(root: Path) -> None:
    classes = {tuple(map(int, line.split()[1:])): number for number, line in enumerate(COLOR_LIST.splitlines())}
    splits = data(root).make_frames()
    seen = set()
    for split, paths in zip(splits, images(root), strict=True):
        for index, path in enumerate(paths):
            image, depth, target, *_ = split[index]
            frames, number = root / path.parents[2], path.stem.removeprefix("rgb_")
            assert np.abs(image.astype(int) - stored(root / path).astype(int)).max() <= 2
            centimetres = stored(frames / "depth" / "Camera_0" / f"depth_{number}.png").astype(float)
            np.testing.assert_allclose(depth, centimetres / 100, rtol=1e-6)
            colors = stored(frames / "classSegmentation" / "Camera_0" / f"classgt_{number}.png").tolist()
            assert target.tolist() == [[classes[tuple(color)] for color in row] for row in colors]
            seen |= set(target.ravel().tolist())
            assert [values.dtype.name for values in (image, depth, target)] == ["uint8", "float32", "uint8"]
    assert seen == set(range(15))


def test_centimetres_become_metres_up_to_the_sky(root: Path) -> None:
    for path in root.glob("*/clone/frames/depth/Camera_0/*.png"):
        save(path, np.resize(np.array([1, 100, 1234, 65535], np.uint16), SIZE))
    depth = data(root).make_frames()[0][0].depth
    np.testing.assert_allclose(depth.ravel()[:4], [0.01, 1, 12.34, 655.35], rtol=1e-6)


def test_classes_and_palette_are_those_of_the_colour_list() -> None:
    listed = [
        f"{name} {red} {green} {blue}"
        for name, (red, green, blue) in zip(VirtualKITTI2.class_names, VirtualKITTI2.palette, strict=True)
    ]
    assert listed == COLOR_LIST.splitlines()


def test_the_camera_is_that_of_its_frame_and_of_the_left_side(root: Path) -> None:
    lines = [
        "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]",
        "0 0 700 701 20 6",
        "0 1 1 1 1 1",
        "1 0 800 801 21 7",
        "1 1 1 1 1 1",
    ]
    for path in root.glob("*/clone/intrinsic.txt"):
        write(path, "\n".join(lines))
    expected = {
        "rgb_00000.jpg": (700, 701, 20, 6, 0.532725, 1.65, 0),
        "rgb_00001.jpg": (800, 801, 21, 7, 0.532725, 1.65, 0),
    }
    for split, paths in zip(data(root).make_frames(), images(root), strict=True):
        assert [split[index].camera for index in range(len(split))] == [expected[path.name] for path in paths]


def test_without_text_files_the_camera_is_the_one_of_all_scenes(root: Path) -> None:
    written = data(root).make_frames()[0][0].camera
    for path in root.glob("*/clone/*.txt"):
        path.unlink()
    assert data(root).make_frames()[0][0].camera == written == VKITTI2_CAMERA


def test_splits_are_6_to_1_to_3_by_seed(root: Path) -> None:
    train, val, test = images(root)
    assert (len(train), len(val), len(test)) == (6, 1, 3)
    assert len({*train, *val, *test}) == 10
    assert {path.parts[0] for path in [*train, *val, *test]} == {
        "Scene01",
        "Scene02",
        "Scene06",
        "Scene18",
        "Scene20",
    }
    assert images(root) == [train, val, test]
    assert any(images(root, seed=seed)[2] != test for seed in (1, 2))


def test_images_are_drawn_by_seed(tmp_path: Path) -> None:
    root = write_virtual_kitti2(tmp_path, count=4)
    first, second = (
        sorted(path for split in images(root, n_images=10, seed=seed) for path in split) for seed in (0, 1)
    )
    assert len(first) == len(set(first)) == len(second) == 10
    assert first != second


def test_variations_are_taken_by_name_in_any_order(tmp_path: Path) -> None:
    root = write_virtual_kitti2(tmp_path, variations=("clone", "fog", "15-deg-left"))
    assert {path.parts[1] for split in images(root) for path in split} == {"clone"}
    both = images(root, variations=["fog", "15-deg-left"])
    assert {path.parts[1] for split in both for path in split} == {"fog", "15-deg-left"}
    assert sum(map(len, both)) == 20
    assert images(root, variations=["15-deg-left", "fog"]) == both


def test_hidden_files_are_left_alone(root: Path) -> None:
    before = images(root)
    for kind, name in (("rgb", "rgb_00000.jpg"), ("depth", "depth_00000.png")):
        (root / FRAMES / kind / "Camera_0" / f"._{name}").touch()
    assert images(root) == before


@pytest.mark.parametrize("kind", ["rgb", "depth", "classSegmentation"])
def test_a_missing_folder_names_the_archive(root: Path, kind: str) -> None:
    (root / FRAMES / kind).rename(root / FRAMES / "elsewhere")
    message = f"^{root} holds no {FRAMES}/{kind}/Camera_0: unpack vkitti_2.0.3_{kind}.tar there$"
    with pytest.raises(FileNotFoundError, match=message):
        data(root).make_frames()


def test_a_root_above_or_below_the_right_one_is_recognised(root: Path) -> None:
    for wrong in (root.parent, root / "Scene01"):
        with pytest.raises(FileNotFoundError, match=f"but {root} does: give that as root$"):
            data(wrong).make_frames()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("rgb/Camera_0/rgb_00001.jpg", "rgb/Camera_0 holds no image for 1 of 2 labels, the first is .*classgt_00001"),
        ("depth/Camera_0/depth_00001.png", "depth/Camera_0 holds no depth for 1 of 2 images, the first is .*rgb_00001"),
        (
            "classSegmentation/Camera_0/classgt_00001.png",
            "Camera_0 holds no label for 1 of 2 images, the first is .*rgb",
        ),
    ],
)
def test_an_unpaired_file_is_named(root: Path, gone: str, message: str) -> None:
    (root / FRAMES / gone).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        data(root).make_frames()


def test_an_empty_folder_of_images_is_refused(root: Path) -> None:
    for path in (root / FRAMES / "rgb" / "Camera_0").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"Camera_0 holds no images, which are named like rgb_00000\.jpg$"):
        data(root).make_frames()


def test_fewer_images_than_are_to_be_drawn_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"^1500 images cannot be drawn from the 10 there are; None takes all$"):
        VirtualKITTI2(root).make_frames()


def test_a_wrong_size_is_found_before_anything_is_read(root: Path) -> None:
    path = save(root / FRAMES / "depth" / "Camera_0" / "depth_00001.png", np.zeros((11, 40), np.uint16))
    with pytest.raises(ValueError, match=f"^{path} is 40 x 11 pixels, its image .*rgb_00001.jpg is 40 x 12$"):
        data(root).make_frames()


# below the lowest, between two, and above the highest of the codes that are looked up
@pytest.mark.parametrize("color", [(0, 0, 1), (90, 200, 254), (255, 255, 255)])
def test_a_colour_of_no_class_is_named_when_it_is_read(root: Path, color: tuple[int, int, int]) -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[2, 3:5] = color
    for path in root.glob("*/clone/frames/classSegmentation/Camera_0/*.png"):
        save(path, pixels)
    frames = data(root).make_frames()[0]
    red, green, blue = color
    message = rf"classgt_.*png holds the colour \({red}, {green}, {blue}\) in 2 pixels, which belongs to no class$"
    with pytest.raises(ValueError, match=message):
        frames[0]


@pytest.mark.parametrize("line", ["Terrain 210 0 201", "Bicycle 1 2 3", "Terrain"])
def test_a_colour_list_that_disagrees_is_refused(root: Path, line: str) -> None:
    path = write(root / CLONE / "colors.txt", f"Category r g b\nSky 90 200 255\n\n{line}\n")
    with pytest.raises(ValueError, match=f"^{path} says '{line}', which is no class of version 2.0.3 or has another"):
        data(root).make_frames()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame cameraID\n0 0\n", "should hold a heading and lines of six numbers: frame, camera, fx, fy, cx, cy"),
        ("frame cameraID\n0 0 a b c d\n", "should hold a heading and lines of six numbers"),
        ("heading\n0 0 725 725 620 187\n", "has no line for camera 0 and the frame of .*rgb_00001.jpg"),
    ],
)
def test_intrinsics_that_do_not_fit_are_refused(root: Path, text: str, message: str) -> None:
    path = write(root / CLONE / "intrinsic.txt", text)
    with pytest.raises(ValueError, match=f"^{path} {message}"):
        data(root).make_frames()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variations": ["snow"]}, "variations must be one of clone, fog, .*30-deg-right, got 'snow'"),
        ({"variations": []}, r"variations must name at least one, and each once, got \[\]"),
        ({"variations": ["fog", "fog"]}, r"variations must name at least one, and each once, got \['fog', 'fog'\]"),
        ({"n_images": 0}, "n_images must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data(tmp_path, **arguments)


def test_there_are_ten_variations() -> None:
    assert len(set(VARIATIONS)) == 10


def test_batches_hold_image_depth_and_target(root: Path) -> None:
    module = data(root, size=(8, 32), batch_size=2)
    module.setup()
    batch = next(iter(module.test_dataloader()))
    assert batch["image"].shape == (2, 3, 8, 32)
    assert batch["depth"].shape == (2, 1, 8, 32)
    assert batch["target"].shape == (2, 8, 32)
    assert batch["target"].dtype == torch.int64
    assert module.num_classes == 15
