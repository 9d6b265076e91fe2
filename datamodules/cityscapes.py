"""Cityscapes with the disparity of its stereo pairs (LIX, Sec. IV-E)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.frames import FrameDataModule
from datamodules.reading.cityscapes_classes import CLASS_NAMES, LABEL_IDS, PALETTE, read_train_ids
from datamodules.reading.folders import check_paired, find_folder, list_files, subfolders
from datamodules.reading.frame import Camera, Frames
from datamodules.reading.frame_files import FileFrames, FrameFiles
from datamodules.reading.image_files import read_uint16
from datamodules.reading.text_files import read_text
from datamodules.serving.geometry import disparity_to_depth
from datamodules.serving.splitting import held_out_groups
from distill.checks import check_at_least
from distill.errors import UserError, UserFileNotFoundError


class Cityscapes(FrameDataModule):
    """Street scenes of 21 cities: 2,975 images of 18 cities to train on, and 500 images of three others to test on.

    Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. The labels of its
    own test images are not published, so **the test split is its validation set**, as in LIX, Sec. IV-E. Many papers
    also choose the epoch on these images, which makes their scores too good. By default, validation therefore takes
    three whole training cities, drawn by the seed. ``val_cities=0`` is the usual protocol: all 2,975 images to train
    on, and the same 500 images to validate and to test on.

    The root holds the unpacked ``leftImg8bit_trainvaltest.zip``, ``gtFine_trainvaltest.zip``,
    ``disparity_trainvaltest.zip`` and ``camera_trainvaltest.zip``, with the splits ``train`` and ``val``::

        root/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png      RGB, 1024 x 2048
        root/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png       one byte a pixel, label ids
        root/disparity/train/aachen/aachen_000000_000019_disparity.png          16 bits, 256 times the disparity in
                                                                                pixels, plus 1; 0: not measured
        root/camera/train/aachen/aachen_000000_000019_camera.json               intrinsics, baseline, height, pitch

    The disparity comes from semi-global matching and is noisy. ``target`` holds the 19 classes under their train ids.

    Args:
        root: Holds the four folders.
        val_cities: The number of training cities to validate on; 0 validates on the test split.
        **kwargs: Arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: files of one image differ in size, a header or a
            camera file is damaged, or no city is left to train on. When an image is read: a file is damaged or holds
            an unknown label.
        FileNotFoundError: From ``setup``: a folder or the partner of a file is missing.
    """

    class_names = CLASS_NAMES
    palette = PALETTE
    label_ids = LABEL_IDS

    def __init__(self, root: str | Path, val_cities: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(0, val_cities=val_cities)
        self.root = Path(root)
        self.val_cities = val_cities

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """Pairs the files and holds out training cities for validation."""
        cities, held_out = self._find_cities("train"), self._find_cities("val")
        kind = f"cities of {self.root / 'leftImg8bit' / 'train'}"
        validation = held_out_groups(cities, self.val_cities, self.seed, "val_cities", kind)
        train = self._frames(files for city, files in cities.items() if city not in validation)
        test = self._frames(held_out.values())
        val = self._frames(cities[city] for city in sorted(validation)) if validation else test
        return train, val, test

    def _frames(self, cities: Iterable[list[FrameFiles]]) -> FileFrames:
        read_target = read_train_ids if self.target == "classes" else None
        return FileFrames(list(chain.from_iterable(cities)), self.root, read_target, _read_depth)

    def _find_cities(self, split: str) -> dict[str, list[FrameFiles]]:
        """The frames of every city of a split of the data set."""
        image_folder, images = self._find("leftImg8bit", split, "_leftImg8bit.png")
        label_folder, labels = self._find("gtFine", split, "_gtFine_labelIds.png")
        disparity_folder, disparities = self._find("disparity", split, "_disparity.png")
        camera_folder, cameras = self._find("camera", split, "_camera.json")
        if not images:
            raise UserFileNotFoundError(f"{image_folder} holds no images, which are named like */*_leftImg8bit.png")
        check_paired(images, "images", labels, "label", label_folder)
        check_paired(images, "images", disparities, "disparity", disparity_folder)
        check_paired(images, "images", cameras, "camera", camera_folder)
        check_paired(labels, "labels", images, "image", image_folder)

        cities: dict[str, list[FrameFiles]] = {}
        for key, image in images.items():
            files = FrameFiles(image, labels[key], disparities[key], _read_camera(cameras[key]))
            cities.setdefault(image.parent.name, []).append(files)
        return cities

    def _find(self, kind: str, split: str, suffix: str) -> tuple[Path, dict[str, Path]]:
        folder = find_folder(self.root, f"{kind}/{split}", f"unpack {kind}_trainvaltest.zip there")
        return folder, {key: path for city in subfolders(folder) for key, path in list_files(city, "", suffix).items()}


def _read_camera(path: Path) -> Camera:
    """The left camera. The pitch of the file is already positive for a camera that looks down."""
    text = read_text(path)
    try:
        parameters = json.loads(text)
        intrinsic, extrinsic = parameters["intrinsic"], parameters["extrinsic"]
        camera = Camera(
            *(float(intrinsic[name]) for name in ("fx", "fy", "u0", "v0")),
            *(float(extrinsic[name]) for name in ("baseline", "z", "pitch")),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} should be JSON with intrinsic: fx, fy, u0, v0 and extrinsic: baseline, z, pitch"
        ) from None
    if not np.isfinite(camera).all() or min(camera.fx, camera.fy, camera.baseline) <= 0:
        raise UserError(
            f"{path} should give finite numbers, and fx, fy and baseline above 0, but gives {camera.fx}, {camera.fy} "
            f"and {camera.baseline}, and u0, v0, z and pitch {camera.cx}, {camera.cy}, {camera.height}, {camera.pitch}"
        )
    return camera


def _read_depth(path: Path, camera: Camera) -> NDArray[np.float32]:
    stored = read_uint16(path).astype(np.float32)
    # a stored 0 becomes negative, which counts as not measured
    return disparity_to_depth((stored - 1) / np.float32(256), camera.fx, camera.baseline)
