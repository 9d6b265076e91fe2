"""KITTI's raw drives with annotated depth, by the Eigen split (TIE-KD, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.frames import FrameDataModule
from datamodules.reading.depth_lists import Listed, find_listed, read_list
from datamodules.reading.frame import Camera, Frames
from datamodules.reading.frame_files import FileFrames, FrameFiles
from datamodules.reading.image_files import find_folder, list_files, read_uint16, subfolders
from datamodules.reading.kitti_calibration import KITTI_CAMERA
from datamodules.serving.transforms import Geometry
from distill.errors import UserError, UserFileNotFoundError

KB_CROP = (352, 1216)
"""The benchmark's crop, height and width: what the images of all drives have in common."""


class KITTIDepth(FrameDataModule):
    """KITTI's raw images, with lidar depth gathered over eleven scans as the ground truth.

    Source: Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013 (images); Uhrig et al., "Sparsity
    Invariant CNNs", 3DV 2017 (annotated depth); Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image
    using a Multi-Scale Deep Network", NIPS 2014 (split). TIE-KD, Sec. 4.1, and the estimators that it compares with
    train and test so. As there, **the test split is the validation split** unless ``val_drives`` holds some out, so a
    score at the best epoch is a little too good.

    The raw drives ("synced+rectified data") and ``data_depth_annotated.zip``, unpacked into a folder each::

        raw_dir/2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png      RGB, about 375 x 1242
        depth_dir/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png
                                                        16 bits, 256 times the depth in metres, 0: not measured

    Images may be ``.jpg`` instead, whatever the list says, and drives of depth may lie under ``depth_dir/train`` and
    ``depth_dir/val``, as they do in the archive. The lists are those of the published code of BTS, AdaBins and the
    monocular depth toolbox, ``eigen_train_files_with_gt.txt`` and ``eigen_test_files_with_gt.txt``; a line reads
    ``2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png
    2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png 721.5377``, with the focal length at the
    end and ``None`` in place of the depth where there is none. BTS leaves out the date in front, which is found, too.
    Of the 697 test images of the split, the 652 with ground truth are taken.

    Without lists, the drives of the left camera are split as the depth benchmark does, by the folders ``train`` and
    ``val``; scores on this split are not to be compared with the papers'.

    Of the modalities, geometry is as sparse as the depth, and so ``geometry`` is empty unless asked for. Stored
    responses lie under the image's path below ``raw_dir``,
    ``2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png``, and have the image's size or that of the
    crop.

    The papers' training: ``augmentation`` with ``scale=(1, 1)`` and ``crop=(352, 704)``.

    Args:
        raw_dir: Holds the days of the raw drives, ``2011_09_26`` and so on.
        depth_dir: Holds the drives of annotated depth, or ``train`` and ``val`` with them.
        train_list: Which images to train on; goes with ``test_list``.
        test_list: Which images to test on; goes with ``train_list``.
        train_without_depth: Whether to train on images without ground truth, too, which a method without hard labels
            can.
        val_drives: How many of the training drives to validate on, drawn by the seed; 0 validates on the test split.
        kb_crop: Whether to keep only the lowest 352 rows and the 1216 columns in the middle, of all splits.
        geometry: As in :class:`~datamodules.frames.FrameDataModule`.
        **kwargs: Further arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a line of a list is something else, files of one
            image differ in size, or the header of one is damaged. When an image is read: a file is damaged.
        FileNotFoundError: From ``setup``: a folder, a list or a listed file is not there.
    """

    def __init__(
        self,
        raw_dir: str | Path,
        depth_dir: str | Path,
        train_list: str | Path | None = None,
        test_list: str | Path | None = None,
        train_without_depth: bool = False,
        val_drives: int = 0,
        kb_crop: bool = True,
        geometry: Sequence[Geometry] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(geometry=geometry, target="depth", **kwargs)
        if (train_list is None) != (test_list is None):
            raise UserError(f"train_list and test_list go together, got {train_list} and {test_list}")
        if val_drives < 0:
            raise UserError(f"val_drives must not be negative, got {val_drives}")
        self.raw_dir, self.depth_dir = Path(raw_dir), Path(depth_dir)
        self.train_list = None if train_list is None else Path(train_list)
        self.test_list = None if test_list is None else Path(test_list)
        self.train_without_depth = train_without_depth
        self.val_drives = val_drives
        self.kb_crop = kb_crop

    @property
    def fixed_crop(self) -> tuple[int, int] | None:
        """The benchmark's, if asked for."""
        return KB_CROP if self.kb_crop else None

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """Finds the files of both lists and holds out training drives for validation."""
        for name, folder in {"raw_dir": self.raw_dir, "depth_dir": self.depth_dir}.items():
            if not folder.is_dir():
                raise UserFileNotFoundError(f"{name} {folder} is not a folder")
        train = self._listed(self.train_list, "train")
        test = [line for line in self._listed(self.test_list, "val") if line.depth is not None]
        if not self.train_without_depth:
            train = [line for line in train if line.depth is not None]
        for name, lines in {"train": train, "test": test}.items():
            if not lines:
                raise UserError(f"there is no ground truth for any image to {name} on")
        train, val = self._split_by_drive(train)
        test_frames = self._frames(test)
        return self._frames(train), self._frames(val) if val else test_frames, test_frames

    def _listed(self, path: Path | None, folder: str) -> list[Listed]:
        return list(self._benchmark_split(folder)) if path is None else read_list(path)

    def _benchmark_split(self, folder: str) -> Iterator[Listed]:
        """What the list of this part of the annotated depth would say."""
        advice = "unpack data_depth_annotated.zip there, or give train_list and test_list"
        for drive in subfolders(find_folder(self.depth_dir, folder, advice)):
            depths = list_files(drive / "proj_depth" / "groundtruth" / "image_02", "", ".png")
            for key, depth in depths.items():
                image = f"{drive.name[:10]}/{drive.name}/image_02/data/{key}.png"
                yield Listed(image, depth.relative_to(self.depth_dir).as_posix(), KITTI_CAMERA.fx)

    def _split_by_drive(self, lines: list[Listed]) -> tuple[list[Listed], list[Listed]]:
        drives = sorted({_drive(line) for line in lines})
        if len(drives) <= self.val_drives:
            raise UserError(
                f"val_drives {self.val_drives} must be less than the {len(drives)} training drives, or none is left "
                "to train on"
            )
        held_out = set(np.random.default_rng(self.seed).permutation(drives)[: self.val_drives].tolist())
        train = [line for line in lines if _drive(line) not in held_out]
        return train, [line for line in lines if _drive(line) in held_out]

    def _frames(self, lines: Sequence[Listed]) -> FileFrames:
        images = find_listed((line.image for line in lines), self._image_places, "images")
        depths = find_listed((line.depth for line in lines if line.depth), self._depth_places, "depth maps")
        files = [
            FrameFiles(
                images[line.image],
                None,
                depths[line.depth] if line.depth else None,
                KITTI_CAMERA._replace(fx=line.focal_length, fy=line.focal_length),
            )
            for line in lines
        ]
        return FileFrames(files, self.raw_dir, None, _read_depth)

    def _image_places(self, listed: str) -> Iterable[Path]:
        for path in (self.raw_dir / listed, self.raw_dir / listed[:10] / listed):
            yield path
            yield path.with_suffix(".jpg" if path.suffix == ".png" else ".png")

    def _depth_places(self, listed: str) -> Iterable[Path]:
        return (self.depth_dir / folder / listed for folder in ("", "train", "val"))


def _drive(line: Listed) -> str:
    """The folder above ``image_02/data/0000000069.png``."""
    return Path(line.image).parts[-4] if line.image.count("/") >= 3 else ""


def _read_depth(path: Path, camera: Camera) -> NDArray[np.float32]:
    metres: NDArray[np.float32] = read_uint16(path).astype(np.float32) / np.float32(256)
    return metres
