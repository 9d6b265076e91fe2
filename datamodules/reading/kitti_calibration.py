"""Calibration files of KITTI's benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.frame import Camera
from datamodules.reading.text_files import read_lines
from distill.errors import UserError, UserFileNotFoundError

KITTI_DAY = "2011_09_26"
"""The day that most images come from."""

# the left colour camera of that day; the height is that of the sensor setup
KITTI_CAMERA = Camera(fx=721.5377, fy=721.5377, cx=609.5593, cy=172.854, baseline=0.532725, height=1.65)


def read_matrices(path: Path, names: Sequence[str]) -> list[NDArray[np.float64]]:
    """Reads matrices ``(3, 4)`` from lines like ``P2: 7.215377e+02 0.000000e+00 ...``.

    Args:
        path: The file.
        names: The words before the colons.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is missing, or does not hold 12 finite numbers that are not all 0.
    """
    lines = dict(line.split(":", 1) for line in read_lines(path) if ":" in line)
    return [_matrix(lines.get(name, "").split(), name, names, path) for name in names]


def _matrix(words: Sequence[str], name: str, names: Sequence[str], path: Path) -> NDArray[np.float64]:
    expected = f"{path} should hold the lines {', '.join(names[:-1])} and {names[-1]} with 12 numbers each"
    if len(words) != 12:
        raise UserError(f"{expected}, but holds {len(words)} for {name}" if words else f"{expected}, but lacks {name}")
    try:
        matrix = np.array(words, float).reshape(3, 4)
    except ValueError as error:
        raise UserError(f"{expected}, but {name} cannot be read ({error})") from None
    if not np.isfinite(matrix).all():
        raise UserError(f"{expected}, but {name} holds {words[int(np.argmin(np.isfinite(matrix)))]}")
    if not matrix[:, :3].any(axis=1).all():
        raise UserError(f"{expected}, but a row of {name} is 0")
    return matrix


def read_stereo_camera(path: Path, left_name: str, right_name: str) -> Camera:
    """The left camera of a rectified pair, from the projections of both; the names are as in :func:`read_matrices`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A projection is missing or damaged, or both do not belong to a stereo pair.
    """
    left, right = read_matrices(path, (left_name, right_name))
    fx, fy, cx, cy = map(float, (left[0, 0], left[1, 1], left[0, 2], left[1, 2]))
    # the fourth entry is -fx times the camera's position on the common x axis
    baseline = float((left[0, 3] - right[0, 3]) / fx) if fx else 0.0
    if min(fx, fy, baseline) <= 0:
        raise UserError(
            f"{path} should give focal lengths above 0 and a camera {right_name} to the right of {left_name}, but the "
            f"focal lengths are {fx:g} and {fy:g}, and the distance is {baseline:g} m"
        )
    return Camera(fx, fy, cx, cy, baseline, KITTI_CAMERA.height)


class RawCameras:
    """The colour cameras of the raw drives, from the file ``calib_cam_to_cam.txt`` of each day.

    Args:
        raw_dir: Holds the days, ``2011_09_26`` and so on.
        required: Whether the cameras must be right. Without the file of a day, an image then has no camera, unless the
            day is 2011_09_26, whose camera is known.
    """

    def __init__(self, raw_dir: Path, *, required: bool) -> None:
        self.raw_dir = raw_dir
        self.required = required
        self._by_day: dict[str, dict[str, Camera] | None] = {}

    def camera(self, image: Path, focal_length: float | None) -> Camera:
        """The rectified camera of an image.

        Args:
            image: The path of an image, such as ``raw_dir/2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0.png``.
            focal_length: In pixels; for the images of a day without a file.

        Raises:
            FileNotFoundError: The file of the day is missing, and the camera is required.
            ValueError: The file is damaged.
        """
        day = image.relative_to(self.raw_dir).parts[0]
        if day not in self._by_day:
            self._by_day[day] = self._read(day)
        cameras = self._by_day[day]
        if cameras is not None:
            return cameras.get(image.parts[-3], cameras["image_02"])
        return KITTI_CAMERA if focal_length is None else KITTI_CAMERA._replace(fx=focal_length, fy=focal_length)

    def _read(self, day: str) -> dict[str, Camera] | None:
        path = self.raw_dir / day / "calib_cam_to_cam.txt"
        if path.is_file():
            left = read_stereo_camera(path, "P_rect_02", "P_rect_03")
            (right,) = read_matrices(path, ("P_rect_02", "P_rect_03"))[1:]
            fx, fy, cx, cy = map(float, (right[0, 0], right[1, 1], right[0, 2], right[1, 2]))
            return {"image_02": left, "image_03": left._replace(fx=fx, fy=fy, cx=cx, cy=cy)}
        if self.required and day != KITTI_DAY:
            raise UserFileNotFoundError(
                f"{path} is not there, and normal and hha need that day's camera: unpack {day}_calib.zip there"
            )
        return None
