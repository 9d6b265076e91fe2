"""KITTI's pixel-level semantics with the disparity of its stereo benchmark (LIX, Sec. IV-A)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.frames import FrameDataModule
from datamodules.reading.cityscapes_classes import CLASS_NAMES, LABEL_IDS, PALETTE, read_train_ids
from datamodules.reading.folders import check_paired, find_folder, list_files
from datamodules.reading.frame import Camera, Frames
from datamodules.reading.frame_files import FileFrames, FrameFiles
from datamodules.reading.image_files import read_float_map, read_uint16
from datamodules.reading.kitti_calibration import KITTI_CAMERA, read_stereo_camera
from datamodules.serving.geometry import disparity_to_depth
from datamodules.serving.splitting import split_by_shares
from distill.errors import UserFileNotFoundError


class KITTISemantics(FrameDataModule):
    """The 200 labelled images of KITTI's semantics benchmark, each with the disparity of its stereo pair.

    Source: Alhaija et al., "Augmented Reality Meets Computer Vision", IJCV 2018 (labels); Menze and Geiger, "Object
    Scene Flow for Autonomous Vehicles", CVPR 2015 (images, disparity). As in LIX, Sec. IV-A, the images are split at
    random 7:3 into training and validation; the seed fixes the split. The benchmark publishes no labels of its own test
    images, so **the test split is the validation split**. As in the paper, a score at the best epoch is therefore a
    little too good.

    The root holds the unpacked ``data_semantics.zip``, ``data_scene_flow.zip`` and, optionally,
    ``data_scene_flow_calib.zip``::

        root/training/image_2/000000_10.png             RGB, about 375 x 1242, sizes vary by a few pixels
        root/training/semantic/000000_10.png            one byte a pixel, Cityscapes' label ids
        root/training/disp_occ_0/000000_10.png          16 bits, 256 times the disparity in pixels, 0: not measured
        root/training/calib_cam_to_cam/000000.txt       P_rect_02 and P_rect_03

    The measured disparity comes from a rotating lidar and is sparse. The paper's disparity is dense; a stereo network
    (CREStereo) predicted it. To use such predictions, give their folder as ``disparity_dir``. Surface normals and HHA
    need dense disparity, because they are computed from neighbouring pixels. ``target`` holds the 19 classes under
    Cityscapes' train ids. Without calibration files, the camera is that of most drives.

    Args:
        root: Holds ``training``.
        disparity_dir: A folder of disparity to use instead, by the images' names: ``000000_10.png`` as above, or
            ``000000_10.npy``, floats ``(H, W)`` in pixels. If both exist, the ``.npy`` file is read.
        **kwargs: Arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: files of one image differ in size, a header is
            damaged, or there are too few images. When an image is read: a file is damaged or holds an unknown label.
        FileNotFoundError: From ``setup``: a folder or the partner of a file is missing.
    """

    class_names = CLASS_NAMES
    palette = PALETTE
    label_ids = LABEL_IDS

    def __init__(self, root: str | Path, disparity_dir: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)
        self.disparity_dir = None if disparity_dir is None else Path(disparity_dir)

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """Pairs the files and splits them 7:3; the test split is the validation split."""
        parts = split_by_shares(self._find_files(), (7, 3), self.seed)
        read_target = read_train_ids if self.target == "classes" else None
        train, val = (FileFrames(part, self.root, read_target, _read_depth) for part in parts)
        return train, val, val

    def _find_files(self) -> list[FrameFiles]:
        image_folder = find_folder(self.root, "training/image_2", "unpack data_semantics.zip there")
        label_folder = find_folder(self.root, "training/semantic", "unpack data_semantics.zip there")
        # the folder also holds the next image of every drive, _11
        images = list_files(image_folder, "", "_10.png")
        labels = list_files(label_folder, "", "_10.png")
        if not images:
            raise UserFileNotFoundError(f"{image_folder} holds no images, which are named like 000000_10.png")
        check_paired(images, "images", labels, "label", label_folder)
        check_paired(labels, "labels", images, "image", image_folder)

        if self.disparity_dir is None:
            disparity_folder = find_folder(
                self.root, "training/disp_occ_0", "unpack data_scene_flow.zip there, or give disparity_dir"
            )
        elif self.disparity_dir.is_dir():
            disparity_folder = self.disparity_dir
        else:
            raise UserFileNotFoundError(f"disparity_dir {self.disparity_dir} is not a folder")
        disparities = list_files(disparity_folder, "", "_10.png") | list_files(disparity_folder, "", "_10.npy")
        check_paired(images, "images", disparities, "disparity", disparity_folder)

        cameras = self._cameras(images)
        return [FrameFiles(images[key], labels[key], disparities[key], cameras[key]) for key in images]

    def _cameras(self, images: dict[str, Path]) -> dict[str, Camera]:
        folder = self.root / "training" / "calib_cam_to_cam"
        if not folder.is_dir():
            return dict.fromkeys(images, KITTI_CAMERA)
        calibrations = list_files(folder, "", ".txt")
        check_paired(images, "images", calibrations, "calibration", folder)
        return {key: _read_camera(calibrations[key]) for key in images}


def _read_camera(path: Path) -> Camera:
    """The left colour camera, number 2; number 3 is the right one."""
    return read_stereo_camera(path, "P_rect_02", "P_rect_03")


def _read_depth(path: Path, camera: Camera) -> NDArray[np.float32]:
    is_array = path.suffix == ".npy"
    disparity = read_float_map(path) if is_array else read_uint16(path).astype(np.float32) / np.float32(256)
    return disparity_to_depth(disparity, camera.fx, camera.baseline)
