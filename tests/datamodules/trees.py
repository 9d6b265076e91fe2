"""Miniature trees of random frames in the exact formats of the real data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import h5py
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from datamodules.virtual_kitti2 import CLASS_COLORS, SCENES

SIZE = (12, 40)
# of 000000.txt, but for the lines of the other cameras
KITTI_CALIBRATION = """\
calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_rect_02: 1.242000e+03 3.750000e+02
P_rect_02: 7.215377e+02 0.000000e+00 6.095593e+02 4.485728e+01 0.000000e+00 7.215377e+02 1.728540e+02 2.163791e-01 \
0.000000e+00 0.000000e+00 1.000000e+00 2.745884e-03
P_rect_03: 7.215377e+02 0.000000e+00 6.095593e+02 -3.395242e+02 0.000000e+00 7.215377e+02 1.728540e+02 2.199936e+00 \
0.000000e+00 0.000000e+00 1.000000e+00 2.729905e-03
"""
CITYSCAPES_CAMERA = {
    "extrinsic": {"baseline": 0.209313, "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.0195, "z": 1.22},
    "intrinsic": {"fx": 2262.52, "fy": 2265.3017905988554, "u0": 1096.98, "v0": 513.137},
}


def save(path: Path, pixels: NDArray[np.generic]) -> Path:
    """Writes an image, whose format follows the suffix, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def stored(path: Path) -> NDArray[np.generic]:
    """What another library reads from an image; colours as red, green, blue."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels


def write(path: Path, text: str) -> Path:
    """Writes a text file with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_kitti_semantics(root: Path, count: int = 10, size: tuple[int, int] = SIZE) -> Path:
    """``count`` images with labels, disparity, half of which was measured, and calibration."""
    rng = np.random.default_rng(0)
    for number in range(count):
        name = f"{number:06d}_10.png"
        save(root / "training" / "image_2" / name, _colors(rng, size))
        save(root / "training" / "semantic" / name, rng.integers(0, 34, size, dtype=np.uint8))
        save(root / "training" / "disp_occ_0" / name, _disparity(rng, size))
        write(root / "training" / "calib_cam_to_cam" / f"{number:06d}.txt", KITTI_CALIBRATION)
    return root


def write_virtual_kitti2(
    root: Path, count: int = 2, size: tuple[int, int] = SIZE, variations: Sequence[str] = ("clone",)
) -> Path:
    """``count`` images for every scene and variation; camera 1 has a line in ``intrinsic.txt`` and no images."""
    rng = np.random.default_rng(0)
    palette = np.array(list(CLASS_COLORS.values()), np.uint8)
    lines = [f"{frame} {camera} 725.0087 725.0087 620.5 187" for frame in range(count) for camera in range(2)]
    for sequence in (root / scene / variation for scene in SCENES for variation in variations):
        write(sequence / "intrinsic.txt", "\n".join(["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]", *lines, ""]))
        colors = [f"{name} {red} {green} {blue}" for name, (red, green, blue) in CLASS_COLORS.items()]
        write(sequence / "colors.txt", "\n".join(["Category r g b", *colors, ""]))
        frames = sequence / "frames"
        for number in range(count):
            save(frames / "rgb" / "Camera_0" / f"rgb_{number:05d}.jpg", _colors(rng, size))
            classes = palette[rng.integers(0, len(palette), size)]
            save(frames / "classSegmentation" / "Camera_0" / f"classgt_{number:05d}.png", classes)
            centimetres = rng.integers(100, 65536, size, dtype=np.uint16)
            save(frames / "depth" / "Camera_0" / f"depth_{number:05d}.png", centimetres)
    return root


def write_cityscapes(root: Path, cities: int = 4, count: int = 2, size: tuple[int, int] = SIZE) -> Path:
    """``count`` images for each of up to six training cities, and for one city to test on."""
    names = ["aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf"][:cities]
    rng = np.random.default_rng(0)
    for split, city in [*(("train", name) for name in names), ("val", "frankfurt")]:
        for number in range(count):
            stem = f"{split}/{city}/{city}_{number:06d}_000019"
            save(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", _colors(rng, size))
            save(root / "gtFine" / f"{stem}_gtFine_labelIds.png", rng.integers(0, 34, size, dtype=np.uint8))
            save(root / "disparity" / f"{stem}_disparity.png", _disparity(rng, size))
            write(root / "camera" / f"{stem}_camera.json", json.dumps(CITYSCAPES_CAMERA))
    return root


# of sequence 00, but for P2 and P3, whose focal length and principal point are those of an image of 96 pixels
ODOMETRY_CALIBRATION = """\
P0: 7.188560e+02 0.000000e+00 6.071928e+02 0.000000e+00 0.000000e+00 7.188560e+02 1.852157e+02 0.000000e+00 \
0.000000e+00 0.000000e+00 1.000000e+00 0.000000e+00
P2: 6.000000e+01 0.000000e+00 4.750000e+01 3.800000e+00 0.000000e+00 6.000000e+01 1.550000e+01 -9.000000e-03 \
0.000000e+00 0.000000e+00 1.000000e+00 3.779761e-03
P3: 6.000000e+01 0.000000e+00 4.750000e+01 -2.820000e+01 0.000000e+00 6.000000e+01 1.550000e+01 2.000000e-01 \
0.000000e+00 0.000000e+00 1.000000e+00 4.915215e-03
Tr: 4.276802385584e-04 -9.999672484946e-01 -8.084491683471e-03 -1.198459927713e-02 -7.210626507497e-03 \
8.081198471645e-03 -9.999413164504e-01 -5.403984729748e-02 9.999738645903e-01 4.859485810390e-04 \
-7.206933692422e-03 -2.921968648686e-01
"""
SCAN_LABELS = (0, 1, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 52, 60, 70, 71, 72, 80, 81, 99, 252, 259)


def write_semantic_kitti(
    root: Path, count: int = 4, size: tuple[int, int] = (32, 96), sequences: Sequence[int] = (0, 8)
) -> Path:
    """``count`` images with scans all around the lidar and their labels, with instances, for every sequence."""
    rng = np.random.default_rng(0)
    for folder in (root / "sequences" / f"{sequence:02d}" for sequence in sequences):
        write(folder / "calib.txt", ODOMETRY_CALIBRATION)
        for name in ("velodyne", "labels"):
            (folder / name).mkdir(exist_ok=True)
        for number in range(count):
            save(folder / "image_2" / f"{number:06d}.png", _colors(rng, size))
            points = rng.uniform((-30, -20, -2, 0), (40, 20, 1, 1), (3000, 4))
            points.astype("<f4").tofile(folder / "velodyne" / f"{number:06d}.bin")
            labels = rng.choice(SCAN_LABELS, 3000) | rng.integers(0, 50, 3000) << 16
            labels.astype("<u4").tofile(folder / "labels" / f"{number:06d}.label")
    return root


KITTI_TRAIN_DRIVES = ("2011_09_26_drive_0057_sync", "2011_09_28_drive_0001_sync", "2011_10_03_drive_0034_sync")
KITTI_TEST_DRIVE = "2011_09_26_drive_0002_sync"


def write_kitti_depth(root: Path, count: int = 2, size: tuple[int, int] = (356, 1227)) -> Path:
    """``raw``, ``depth`` and the lists ``train.txt`` and ``test.txt``; drives have ``count`` images each.

    The last image of every drive has no ground truth. Red and green of an image tell column and row modulo 256, and the
    depth, in every third column, is ``1 + column / 256`` metres.
    """
    columns, rows = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    depth = np.where(columns % 3 == 0, 256 + columns, 0).astype(np.uint16)
    for name, drives in {"train": KITTI_TRAIN_DRIVES, "test": (KITTI_TEST_DRIVE,)}.items():
        lines = []
        for drive in drives:
            for number in range(count):
                image = f"{drive[:10]}/{drive}/image_02/data/{number:010d}.png"
                truth = f"{drive}/proj_depth/groundtruth/image_02/{number:010d}.png"
                pixels = np.stack([columns, rows, np.full_like(rows, number)], axis=-1)
                save(root / "raw" / image, pixels.astype(np.uint8))
                if number < count - 1:
                    save(root / "depth" / truth, depth)
                lines.append(f"{image} {truth if number < count - 1 else None} 721.5377\n")
        write(root / f"{name}.txt", "".join(lines))
    return root


def write_raw_calibration(raw: Path, day: str, focal_length: float, cx: float, cy: float) -> Path:
    """The calibration of a day, as its archive holds it; the right camera has its centre 8 pixels further right."""
    text = KITTI_CALIBRATION.replace("7.215377e+02", f"{focal_length:e}").replace("1.728540e+02", f"{cy:e}")
    left, right = text.replace("6.095593e+02", f"{cx:e}").split("P_rect_03")
    return write(raw / day / "calib_cam_to_cam.txt", f"{left}P_rect_03{right.replace(f'{cx:e}', f'{cx + 8:e}')}")


def write_nyu_labeled(root: Path, count: int = 8, size: tuple[int, int] = SIZE) -> Path:
    """The labelled images in MATLAB's order, the last index of which is the first; every second one is to test on.

    Of the 894 labels, number n is of class (n - 1) % 40 + 1.
    """
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = rng.integers(0, 256, (count, 3, size[1], size[0]), dtype=np.uint8)
        file["depths"] = rng.uniform(0.7, 10, (count, size[1], size[0])).astype(np.float32)
        file["labels"] = rng.integers(0, 895, (count, size[1], size[0]), dtype=np.uint16)
    numbers = np.arange(1, count + 1, dtype=np.uint16)[:, None]
    savemat(root / "splits.mat", {"trainNdxs": numbers[::2], "testNdxs": numbers[1::2]})
    savemat(root / "classMapping40.mat", {"mapClass": np.arange(894)[None] % 40 + 1.0})
    return root


def write_nyu_folders(
    root: Path,
    count: int = 2,
    size: tuple[int, int] = SIZE,
    folders: tuple[str, str] = ("train", "test"),
    lists: tuple[str, str] = ("train.txt", "test.txt"),
) -> Path:
    """Two scenes to train and one to test on in two folders, with their lists, which need not lie in the root."""
    rng = np.random.default_rng(0)
    for folder, name, scenes in zip(folders, lists, (("kitchen_0028b", "bedroom_0010"), ("bathroom",)), strict=True):
        lines = []
        for scene in scenes:
            for number in range(count):
                image, depth = f"{scene}/rgb_{number:05d}.jpg", f"{scene}/sync_depth_{number:05d}.png"
                save(root / folder / image, _colors(rng, size))
                save(root / folder / depth, rng.integers(0, 10000, size, dtype=np.uint16))
                lines.append(f"/{image} /{depth} 518.8579\n")
        write(root / name, "".join(lines))
    return root


def _colors(rng: Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def _disparity(rng: Generator, size: tuple[int, int]) -> NDArray[np.uint16]:
    """1 to 100 pixels in units of 1/256 where there is one, 0 elsewhere."""
    measured = rng.integers(256, 25600, size, dtype=np.uint16)
    return np.where(rng.random(size) < 0.5, measured, np.uint16(0))


def write_responses(folder: Path, raw: Path) -> Path:
    """Stored responses of 5 to 60 m, in millimetres, to all images of a tree of KITTI's raw drives."""
    for image in raw.rglob("*.png"):
        height, width = np.array(Image.open(image)).shape[:2]
        depth = np.linspace(5000, 60000, height * width).reshape(height, width).astype(np.uint16)
        save(folder / image.relative_to(raw), depth)
    (folder / "responses.json").write_text(json.dumps({"metres_per_unit": 0.001}))
    return folder
