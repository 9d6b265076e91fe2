"""SemanticKITTI: lidar scans with a class for every point, projected into a camera's image (PSSM, NTDH)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.frames import FrameDataModule
from datamodules.reading.folders import check_paired, find_folder, list_files
from datamodules.reading.frame import IGNORED, Camera, Frame, Frames
from datamodules.reading.frame_files import frame_name
from datamodules.reading.image_files import UnreadableError, read_color, read_header
from datamodules.reading.kitti_calibration import read_matrices, read_stereo_camera
from datamodules.reading.lidar import points_in_view, read_scan, view_scan
from datamodules.reading.semantic_kitti_classes import CLASS_NAMES, LABEL_IDS, PALETTE, read_classes
from datamodules.serving.frame_pairs import FramePairs
from datamodules.serving.geometry import Geometry
from datamodules.serving.splitting import check_disjoint, check_groups
from distill.checks import check_at_least
from distill.errors import UserFileNotFoundError

TRAIN_SEQUENCES = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10)
VAL_SEQUENCES = (8,)
HIDDEN_SEQUENCES = range(11, 22)
"""The sequences whose labels are not published."""
SMALLEST_SIZE = (370, 1226)
"""Height and width that the images of all sequences have at least."""


class SemanticKITTI(FrameDataModule):
    """Images of KITTI's odometry benchmark, and the points of lidar scans that lie in them, in 19 classes.

    Source: Behley et al., "SemanticKITTI", ICCV 2019. The points are projected as by Zhuang et al., PMF, ICCV 2021, and
    in PSSM, Sec. B.4, and NTDH, Sec. IV-A.

    - ``image`` ``(N, 3, H, W)``: as in :class:`~datamodules.frames.FrameDataModule`;
    - ``lidar`` ``(N, 5, H, W)``: range, x, y, z (metres; forward, left, up) and intensity of the nearest point in each
      pixel, normalised by mean and standard deviation over all scans (:mod:`datamodules.reading.lidar`); 0 where there
      is no point;
    - ``target`` ``(N, H, W)``: the point's class, which is the same for moving and for standing objects; 255 where
      there is no point or its label does not count. So losses and scores are over the nearest points of the pixels.

    The pairings of PSSM, Sec. B.4, are ``teacher_inputs: [image]`` (a) and ``[image, lidar]`` (b), both with
    ``student_inputs: [lidar]``.

    The root holds the odometry benchmark's colour images, scans and calibration, and SemanticKITTI's labels::

        root/sequences/00/image_2/000000.png        RGB, about 375 x 1242, of one size in each sequence
        root/sequences/00/velodyne/000000.bin       four floats a point: x, y, z in metres, intensity
        root/sequences/00/labels/000000.label       four bytes a point; the lower two are the class
        root/sequences/00/calib.txt                 P2, P3 and Tr

    As published, sequences 00 to 07, 09 and 10 are for training and 08 is for validation. The labels of 11 to 21 are
    not published, so by default **the test split is the validation split**, as in the papers. To predict on 11 to 21
    for the benchmark, give them as ``test_sequences``: without their folders ``labels``, ``target`` is 255 everywhere.

    ``crop`` keeps the lowest rows and the middle columns of every frame. As in PMF's released code, its default is the
    smallest size of all sequences, so that frames of different sequences fit into one batch. Resizing to ``size``
    drops points. PMF trains with ``PairedAugmentation(scale=(1, 1), rotation=15, crop=(256, 1024))``.

    Args:
        root: Holds ``sequences``.
        train_sequences: The numbers of the sequences to train on.
        val_sequences: The numbers of the sequences to validate on.
        test_sequences: The numbers of the sequences to test on.
        crop: ``(H, W)`` of the part to keep; ``None`` keeps whole frames.
        geometry: As in :class:`~datamodules.frames.FrameDataModule`, computed from the depth of the points. It is
            sparse, and ``normal`` and ``hha`` need neighbouring points, so the default is none.
        **kwargs: Further arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range, or a sequence of training is in another split. From ``setup``: a
            calibration file is damaged. When a frame is read: a file is damaged, or scan and labels differ in length.
        FileNotFoundError: From ``setup``: a folder or the partner of a file is missing.
    """

    class_names = CLASS_NAMES
    palette = PALETTE
    label_ids = LABEL_IDS

    def __init__(
        self,
        root: str | Path,
        train_sequences: Sequence[int] = TRAIN_SEQUENCES,
        val_sequences: Sequence[int] = VAL_SEQUENCES,
        test_sequences: Sequence[int] = VAL_SEQUENCES,
        crop: tuple[int, int] | None = SMALLEST_SIZE,
        geometry: Sequence[Geometry] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(geometry=geometry, **kwargs)
        self.root = Path(root)
        sequences = {"train": train_sequences, "val": val_sequences, "test": test_sequences}
        for split, numbers in sequences.items():
            check_groups(f"{split}_sequences", numbers, "sequences", 0, 21)
        check_disjoint("sequence", train_sequences=train_sequences, val_sequences=val_sequences)
        check_disjoint("sequence", train_sequences=train_sequences, test_sequences=test_sequences)
        self.train_sequences, self.val_sequences, self.test_sequences = map(tuple, sequences.values())
        if crop is not None:
            check_at_least(1, crop_height=crop[0], crop_width=crop[1])
        self.crop = None if crop is None else (crop[0], crop[1])

    @property
    def fixed_crop(self) -> tuple[int, int] | None:
        """``crop``."""
        return self.crop

    @property
    def modalities(self) -> tuple[str, ...]:
        """``image``, ``lidar`` and ``geometry``."""
        return ("image", "lidar", *self.geometry)

    def prediction_path(self, position: int) -> str:
        """Where the benchmark expects the labels of a scan to predict on: ``sequences/08/predictions/000012.label``."""
        scan = self._predicted(position).scan
        return f"sequences/{scan.parents[1].name}/predictions/{scan.stem}.label"

    def write_prediction(self, path: Path, classes: NDArray[np.int64], position: int) -> None:
        """Writes a label for each point of a scan to predict on, four bytes each, as the benchmark reads them.

        A point has the class of its pixel, also behind a nearer point. Points outside the image, and in pixels without
        a prediction, have the label 0, unlabelled.

        Args:
            path: The file.
            classes: The predicted classes of the image's pixels, ``(H, W)``; -1 without a prediction.
            position: Of the scan in its split.
        """
        files = self._predicted(position)
        scan = read_scan(files.scan)
        height, width = classes.shape
        seen = points_in_view(scan, files.projection, (height, width))
        labels = np.zeros(len(scan), "<u4")
        # class -1 takes the last number
        labels[seen.points] = np.array([*LABEL_IDS, 0], "<u4")[classes[seen.rows, seen.columns]]
        labels.tofile(path)

    def _predicted(self, position: int) -> ScanFiles:
        frames = cast(FramePairs, self.predict_dataset).frames
        return cast(ScanFrames, frames).files[position]

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """Pairs the files of each sequence; validation and test share their frames if they have the same sequences."""
        train, val = self._frames(self.train_sequences), self._frames(self.val_sequences)
        same = self.test_sequences == self.val_sequences
        return train, val, val if same else self._frames(self.test_sequences)

    def _frames(self, sequences: Sequence[int]) -> ScanFrames:
        return ScanFrames([files for sequence in sequences for files in self._find_files(sequence)], self.root)

    def _find_files(self, sequence: int) -> list[ScanFiles]:
        folder = f"sequences/{sequence:02d}"
        kinds = {
            "image_2": (".png", "unpack data_odometry_color.zip there"),
            "velodyne": (".bin", "unpack data_odometry_velodyne.zip there"),
            "labels": (".label", "unpack data_odometry_labels.zip there"),
        }
        if sequence in HIDDEN_SEQUENCES and not (self.root / folder / "labels").is_dir():
            del kinds["labels"]
        folders = {kind: find_folder(self.root, f"{folder}/{kind}", advice) for kind, (_, advice) in kinds.items()}
        files = {kind: list_files(folders[kind], "", suffix) for kind, (suffix, _) in kinds.items()}
        images, scans, labels = files["image_2"], files["velodyne"], files.get("labels")
        if not scans:
            raise UserFileNotFoundError(f"{folders['velodyne']} holds no scans, which are named like 000000.bin")
        if labels is not None:
            check_paired(scans, "scans", labels, "labels", folders["labels"])
            check_paired(labels, "labels", scans, "scan", folders["velodyne"])
        check_paired(scans, "scans", images, "image", folders["image_2"])
        calibration = self.root / folder / "calib.txt"
        if not calibration.is_file():
            raise UserFileNotFoundError(f"{calibration} is not there: unpack data_odometry_calib.zip")
        projection, camera = read_calibration(calibration)
        return [
            ScanFiles(images[key], scans[key], None if labels is None else labels[key], projection, camera)
            for key in scans
        ]


class ScanFiles(NamedTuple):
    """The files of a frame, and the lidar's ``projection`` and the camera, as :func:`read_calibration` returns them.

    ``labels`` is ``None`` where they are not published.
    """

    image: Path
    scan: Path
    labels: Path | None
    projection: NDArray[np.float64]
    camera: Camera


class ScanFrames:
    """A split whose frames are read when they are needed.

    Args:
        files: One entry a frame.
        root: The folder that holds the images, at any depth; their paths below it are the frames' names.
    """

    def __init__(self, files: Sequence[ScanFiles], root: Path) -> None:
        self.files = files
        self.names = [frame_name(scan.image, root) for scan in files]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def sizes(self) -> list[tuple[int, int] | None]:
        """Height and width of every image, from its header; ``None`` where that is damaged."""
        return [_size(scan.image) for scan in self.files]

    def __getitem__(self, index: int) -> Frame:
        files = self.files[index]
        image, scan = read_color(files.image), read_scan(files.scan)
        height, width = image.shape[:2]
        if files.labels is None:
            classes = np.full(len(scan), IGNORED, np.uint8)
        else:
            classes = read_classes(files.labels, len(scan))
        view = view_scan(scan, classes, files.projection, (height, width))
        return Frame(image, view.depth, view.target, files.camera, view.lidar)


def _size(path: Path) -> tuple[int, int] | None:
    try:
        height, width, _ = read_header(path)
    except UnreadableError:  # reported, or replaced, when the frame is read
        return None
    return height, width


def read_calibration(path: Path) -> tuple[NDArray[np.float64], Camera]:
    """The projection ``(3, 4)`` from lidar coordinates in metres to homogeneous pixels, and the left colour camera.

    Raises:
        ValueError: A matrix is missing or damaged.
    """
    left, _, lidar_to_camera = read_matrices(path, ("P2", "P3", "Tr"))
    return left @ np.vstack([lidar_to_camera, (0, 0, 0, 1)]), read_stereo_camera(path, "P2", "P3")
