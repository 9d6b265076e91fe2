"""SemanticKITTI: lidar scans with a class for every point, seen through the camera beside the lidar (PSSM, NTDH)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.frames import FrameDataModule
from datamodules.reading.frame import Camera, Frame, Frames
from datamodules.reading.image_files import check_paired, find_folder, list_files, read_color
from datamodules.reading.kitti_calibration import read_matrices, stereo_camera
from datamodules.reading.lidar import read_scan, view_scan
from datamodules.reading.semantic_kitti_classes import CLASS_NAMES, PALETTE, read_classes
from datamodules.serving.datasets import check_counts
from datamodules.serving.transforms import Geometry
from distill.errors import UserError, UserFileNotFoundError

TRAIN_SEQUENCES = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10)
VAL_SEQUENCES = (8,)
SMALLEST = (370, 1226)


class SemanticKITTI(FrameDataModule):
    """Images of KITTI's odometry benchmark, and the points of the lidar scans that lie in them, of 19 classes.

    Source: Behley et al., "SemanticKITTI", ICCV 2019; the view through the camera is that of Zhuang et al., PMF, ICCV
    2021, as in PSSM, Sec. B.4, and NTDH, Sec. IV-A.

    - ``image`` ``(N, 3, H, W)``: as in all data modules of street scenes;
    - ``lidar`` ``(N, 5, H, W)``: range, x, y, z (metres; forward, left, up) and intensity of the nearest point in each
      pixel, less their mean over all scans and divided by the standard deviation (:mod:`datamodules.reading.lidar`); 0
      where no point is;
    - ``target`` ``(N, H, W)``: the point's class; moving things are of the class of those that stand; 255 where no
      point is or its label does not count. So losses and scores are those of the points in the image, less the ones
      that hide behind others in one pixel.

    The pairings of PSSM, Sec. B.4, are ``teacher_inputs: [image]`` (a) and ``[image, lidar]`` (b), both with
    ``student_inputs: [lidar]``.

    The odometry benchmark's colour images, scans and calibration with SemanticKITTI's labels::

        root/sequences/00/image_2/000000.png        RGB, about 375 x 1242, of one size in each sequence
        root/sequences/00/velodyne/000000.bin       four floats a point: x, y, z in metres, intensity
        root/sequences/00/labels/000000.label       four bytes a point, of which the lower two are the class
        root/sequences/00/calib.txt                 P2, P3 and Tr

    Sequences 00 to 07, 09 and 10 are to train on and 08 to validate on, as published; the labels of 11 to 21 are not,
    so **the test split is the validation split** unless chosen otherwise, as in the papers.

    ``crop`` cuts the lowest rows and the columns in the middle out of every frame; by default to the smallest size of a
    sequence, as in PMF's released code, so that frames of different sequences fit into one batch. Resizing to ``size``
    leaves out the points of the pixels that it leaves out. PMF trains with ``PairedAugmentation(scale=(1, 1),
    rotation=15, crop=(256, 1024))``.

    Args:
        root: Holds ``sequences``.
        train_sequences: To train on.
        val_sequences: To validate on.
        test_sequences: To test on.
        crop: ``(H, W)``; ``None`` keeps the frames whole.
        geometry: As in :class:`~datamodules.frames.FrameDataModule`, of the depth of the points; none by default, for
            it is as sparse as they are, and ``normal`` and ``hha`` need neighbours.
        **kwargs: Further arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range, or a sequence is to train on and to evaluate on. From ``setup``: a
            calibration is damaged. When a frame is read: a file is damaged, or has not the points of its scan.
        FileNotFoundError: From ``setup``: a folder, or the partner of a file, is not there.
    """

    class_names = CLASS_NAMES
    palette = PALETTE

    def __init__(
        self,
        root: str | Path,
        train_sequences: Sequence[int] = TRAIN_SEQUENCES,
        val_sequences: Sequence[int] = VAL_SEQUENCES,
        test_sequences: Sequence[int] = VAL_SEQUENCES,
        crop: tuple[int, int] | None = SMALLEST,
        geometry: Sequence[Geometry] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(geometry=geometry, **kwargs)
        self.root = Path(root)
        self.train_sequences = _checked("train_sequences", train_sequences)
        self.val_sequences = _checked("val_sequences", val_sequences)
        self.test_sequences = _checked("test_sequences", test_sequences)
        for name in ("val_sequences", "test_sequences"):
            shared = set(self.train_sequences) & set(getattr(self, name))
            if shared:
                raise UserError(f"sequence {min(shared)} is in train_sequences and in {name}")
        if crop is not None:
            check_counts(crop_height=crop[0], crop_width=crop[1])
        self.crop = None if crop is None else (crop[0], crop[1])

    @property
    def fixed_crop(self) -> tuple[int, int] | None:
        """``crop``."""
        return self.crop

    @property
    def modalities(self) -> tuple[str, ...]:
        """``image``, ``lidar`` and the geometry asked for."""
        return ("image", "lidar", *self.geometry)

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """Pairs the files of each sequence; equal lists of sequences give one split."""
        train, val = self._frames(self.train_sequences), self._frames(self.val_sequences)
        same = self.test_sequences == self.val_sequences
        return train, val, val if same else self._frames(self.test_sequences)

    def _frames(self, sequences: Sequence[int]) -> ScanFrames:
        return ScanFrames([files for sequence in sequences for files in self._find_files(sequence)], self.root)

    def _find_files(self, sequence: int) -> list[ScanFiles]:
        inside = f"sequences/{sequence:02d}"
        kinds = {
            "image_2": (".png", "unpack data_odometry_color.zip there"),
            "velodyne": (".bin", "unpack data_odometry_velodyne.zip there"),
            "labels": (".label", "unpack data_odometry_labels.zip there"),
        }
        folders = {kind: find_folder(self.root, f"{inside}/{kind}", advice) for kind, (_, advice) in kinds.items()}
        images, scans, labels = (list_files(folders[kind], "", suffix) for kind, (suffix, _) in kinds.items())
        if not scans:
            raise UserFileNotFoundError(f"{folders['velodyne']} holds no scans, which are named like 000000.bin")
        check_paired(scans, "scans", labels, "labels", folders["labels"])
        check_paired(labels, "labels", scans, "scan", folders["velodyne"])
        check_paired(scans, "scans", images, "image", folders["image_2"])
        calibration = self.root / inside / "calib.txt"
        if not calibration.is_file():
            raise UserFileNotFoundError(f"{calibration} is not there: unpack data_odometry_calib.zip")
        projection, camera = read_calibration(calibration)
        return [ScanFiles(images[key], scans[key], labels[key], projection, camera) for key in scans]


class ScanFiles(NamedTuple):
    """Where a frame lies, and how the camera sees the points: ``projection`` as in :func:`read_calibration`."""

    image: Path
    scan: Path
    labels: Path
    projection: NDArray[np.float64]
    camera: Camera


class ScanFrames:
    """A split of frames that are read when they are asked for.

    Args:
        files: One entry a frame.
        root: The folder that the images lie in, at any depth; their paths below it are the frames' names.
    """

    def __init__(self, files: Sequence[ScanFiles], root: Path) -> None:
        self.files = files
        self.names = [one.image.relative_to(root).with_suffix("").as_posix() for one in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Frame:
        files = self.files[index]
        image, scan = read_color(files.image), read_scan(files.scan)
        height, width = image.shape[:2]
        view = view_scan(scan, read_classes(files.labels, len(scan)), files.projection, (height, width))
        return Frame(image, view.depth, view.target, files.camera, view.lidar)


def read_calibration(path: Path) -> tuple[NDArray[np.float64], Camera]:
    """From metres of the lidar to homogeneous pixels of the left colour camera, ``(3, 4)``, and that camera.

    Raises:
        ValueError: A matrix is missing or damaged.
    """
    left, right, lidar_to_camera = read_matrices(path, ("P2", "P3", "Tr"))
    return left @ np.vstack([lidar_to_camera, (0, 0, 0, 1)]), stereo_camera(left, right)


def _checked(name: str, sequences: Sequence[int]) -> tuple[int, ...]:
    if not sequences or len(set(sequences)) < len(sequences):
        raise UserError(f"{name} must be one or more different sequences, got {list(sequences)}")
    strange = [sequence for sequence in sequences if not 0 <= sequence <= 21]
    if strange:
        raise UserError(f"{name} must be of 0 to 21, got {strange[0]}")
    return tuple(sequences)
