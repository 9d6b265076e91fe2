from __future__ import annotations

import re
from pathlib import Path

import pytest

from datamodules.reading.kitti_calibration import read_matrices, read_stereo_camera
from tests.datamodules.trees import ODOMETRY_CALIBRATION, write

NAMES = ("P2", "P3", "Tr")


def test_the_camera_is_that_of_the_left_projection(tmp_path: Path) -> None:
    path = write(tmp_path / "calib.txt", ODOMETRY_CALIBRATION)
    camera = read_stereo_camera(path, "P2", "P3")
    assert camera[:4] == (60, 60, 47.5, 15.5)
    assert camera.baseline == pytest.approx(32 / 60)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("P2: 6.000000e+01", "P2: nan", "P2 holds nan"),
        ("P2: 6.000000e+01", "P2: -inf", "P2 holds -inf"),
        ("P2: 6.000000e+01", "P2: 6.0e", "P2 cannot be read (could not convert string to float: '6.0e')"),
        ("P2: 6.000000e+01", "P2:", "holds 11 for P2"),
        ("P2:", "p2:", "lacks P2"),
        ("P3: 6.000000e+01", "P3: 0", "a row of P3 is 0"),
        ("4.276802385584e-04 -9.999672484946e-01 -8.084491683471e-03", "0 0 0.0", "a row of Tr is 0"),
    ],
)
def test_a_matrix_that_cannot_be_used_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = ODOMETRY_CALIBRATION.replace("0.000000e+00 4.750000e+01 -2.82", "0 0 -2.82") if "P3" in old else None
    path = write(tmp_path / "calib.txt", (text or ODOMETRY_CALIBRATION).replace(old, new))
    expected = f"{path} should hold the lines P2, P3 and Tr with 12 numbers each, but {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        read_matrices(path, NAMES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-2.820000e+01", "3.800000e+00", "the focal lengths are 60 and 60, and the distance is 0 m"),
        ("-2.820000e+01", "9.800000e+00", "the focal lengths are 60 and 60, and the distance is -0.1 m"),
        ("P2: 6.000000e+01", "P2: -60", "the focal lengths are -60 and 60, and the distance is -0.533333 m"),
        ("P2: 6.000000e+01", "P2: 0", "the focal lengths are 0 and 60, and the distance is 0 m"),
    ],
)
def test_projections_of_no_stereo_pair_are_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path / "calib.txt", ODOMETRY_CALIBRATION.replace(old, new))
    with pytest.raises(
        ValueError, match=rf"^{path} should give focal lengths above 0 and a camera P3 .*, but {message}$"
    ):
        read_stereo_camera(path, "P2", "P3")


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"calib\.txt is not there$"):
        read_matrices(tmp_path / "calib.txt", NAMES)
