from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datamodules.reading.lidar import (
    FEATURE_MEANS,
    FEATURE_STDS,
    FEATURES,
    normalised_points,
    read_scan,
    read_semantics,
    view_scan,
)

# a camera in the lidar: focal length 10, principal point (4, 2), looks along x
SIMPLE = np.array([[4.0, -10, 0, 0], [2, 0, -10, 0], [1, 0, 0, 0]])
CLASSES = np.arange(9, dtype=np.uint8)


def test_a_point_lands_in_the_pixel_worked_out_by_hand() -> None:
    # 4 - 10 * 2 / 10 and 2 - 10 * -1 / 10
    view = view_scan(np.array([[10, 2, -1, 0.5]], np.float32), CLASSES[:1], SIMPLE, (5, 9))
    assert view.lidar[3, 2].tolist() == pytest.approx([105**0.5, 10, 2, -1, 0.5])
    assert view.depth[3, 2] == 10
    assert view.target[3, 2] == 0
    view.lidar[3, 2] = view.depth[3, 2] = 0
    view.target[3, 2] = 255
    assert not view.lidar.any()
    assert not view.depth.any()
    assert (view.target == 255).all()


def test_points_behind_the_camera_and_beside_the_image_are_not_seen() -> None:
    seen = np.array([[10, 4.4, 0, 0], [10, -4.4, 0, 0], [10, 0, 2.4, 0], [10, 0, -2.4, 0]], np.float32)
    beside = np.array([[10, 4.6, 0, 0], [10, -4.6, 0, 0], [10, 0, 2.6, 0], [10, 0, -2.6, 0]], np.float32)
    # the same ray backwards: it has the same pixel
    behind = np.array([[-10, -2, 1, 0.5], [0, 0, 0, 0]], np.float32)
    view = view_scan(np.concatenate([beside, seen, behind]), np.full(10, 3, np.uint8), SIMPLE, (5, 9))
    assert (view.target == 3).sum() == 4
    assert all(view.target[pixel] == 3 for pixel in ((2, 0), (2, 8), (0, 4), (4, 4)))


def test_the_nearest_of_several_points_in_a_pixel_is_seen() -> None:
    scan = np.array([[20, 0, 0, 0.1], [5, 0, 0, 0.2], [10, 0, 0, 0.3]], np.float32)
    for order in ([0, 1, 2], [1, 0, 2], [2, 0, 1]):
        view = view_scan(scan[order], CLASSES[:3][order], SIMPLE, (5, 9))
        assert view.lidar[2, 4].tolist() == pytest.approx([5, 5, 0, 0, 0.2])
        assert view.target[2, 4] == 1


def test_the_projection_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])  # right, down, ahead from forward, left, up
    turn = Rotation.from_rotvec([0.02, -0.01, 0.03]).as_matrix() @ axes
    shift = np.array([0.05, -0.08, -0.27])
    camera = np.array([[60.0, 0, 47.3], [0, 58, 15.8], [0, 0, 1]])
    points = rng.uniform((3, -20, -2, 0), (40, 20, 1, 1), (2000, 4)).astype(np.float32)
    pixels, _ = cv2.projectPoints(points[:, :3].astype(float), cv2.Rodrigues(turn)[0], shift, camera, None)
    columns, rows = np.rint(pixels[:, 0]).T.astype(int)
    inside = (columns >= 0) & (columns < 96) & (rows >= 0) & (rows < 32)
    view = view_scan(points, np.zeros(2000, np.uint8), camera @ np.column_stack([turn, shift]), (32, 96))
    occupied = np.zeros((32, 96), bool)
    occupied[rows[inside], columns[inside]] = True
    assert 300 < inside.sum() < 2000
    assert np.array_equal(view.target == 0, occupied)
    depth = (points[:, :3] @ turn.T + shift)[:, 2]
    nearest = np.full((32, 96), np.inf)
    np.minimum.at(nearest, (rows[inside], columns[inside]), depth[inside])
    np.testing.assert_allclose(view.depth[occupied], nearest[occupied], rtol=1e-5)


def test_the_statistics_are_the_published_ones_feature_by_feature() -> None:
    # img_means and img_stds of RangeNet++'s configurations for SemanticKITTI: range, x, y, z, remission
    assert FEATURES == ("range", "x", "y", "z", "intensity")
    assert FEATURE_MEANS == (12.12, 10.88, 0.23, -1.04, 0.21)
    assert FEATURE_STDS == (12.32, 11.47, 6.91, 0.86, 0.16)


def test_features_are_normalised_where_there_is_a_point_alone() -> None:
    lidar = np.zeros((1, 3, 5), np.float32)
    lidar[0, 0] = FEATURE_MEANS
    lidar[0, 1] = np.add(FEATURE_MEANS, FEATURE_STDS)
    np.testing.assert_allclose(normalised_points(lidar)[0], [[0] * 5, [1] * 5, [0] * 5], atol=1e-5)


def test_a_scan_of_half_a_point_or_of_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "000000.bin"
    for size in (0, 8, 33):
        path.write_bytes(bytes(size))
        with pytest.raises(ValueError, match=f"^{path} has {size} bytes, but a scan has 16 a point$"):
            read_scan(path)
    np.array([1, 2, np.nan, 4], np.float32).tofile(path)
    with pytest.raises(ValueError, match=f"^{path} holds a point with a coordinate that is not finite$"):
        read_scan(path)


def test_the_upper_half_of_a_label_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "000000.label"
    np.array([252, 252 | 7 << 16, 40 | 65535 << 16], "<u4").tofile(path)
    assert read_semantics(path, 3).tolist() == [252, 252, 40]
    with pytest.raises(ValueError, match=f"^{path} has 12 bytes, but labels of 4 points have 16$"):
        read_semantics(path, 4)
