from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.reading.frame import Camera
from datamodules.serving.geometry import (
    depth_to_disparity,
    depth_to_hha,
    depth_to_normals,
    disparity_to_depth,
    relative_disparity,
)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

CAMERA = Camera(fx=120.0, fy=100.0, cx=31.5, cy=14.0, baseline=0.5, height=1.5)
SHAPE = (32, 64)

pytestmark = pytest.mark.filterwarnings("error")


def rays(camera: Camera = CAMERA, shape: tuple[int, int] = SHAPE) -> Doubles:
    """What each pixel sees one metre along the optical axis, ``(H, W, 3)``."""
    v, u = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    return np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(shape)], axis=-1)


def unit(*vector: float) -> Doubles:
    direction: Doubles = np.array(vector) / np.linalg.norm(vector)
    return direction


def plane(normal: Doubles, through: tuple[float, float, float], camera: Camera = CAMERA) -> Floats:
    """The depth of a plane; 0 where it is behind the camera or beyond 1000 km."""
    inverse = rays(camera) @ normal / (normal @ np.array(through))
    return np.where(inverse > 1e-6, 1 / np.maximum(inverse, 1e-6), 0).astype(np.float32)


def test_disparity_is_focal_length_times_baseline_over_depth() -> None:
    depth = np.array([[10.0, 3.5, 0.0]], dtype=np.float32)
    disparity = depth_to_disparity(depth, focal_length=700, baseline=0.5)
    assert disparity.dtype == np.float32
    np.testing.assert_allclose(disparity, [[35.0, 100.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(disparity_to_depth(disparity, 700, 0.5), depth, rtol=1e-6)


def test_relative_disparity_is_one_at_two_metres_and_zero_far_away() -> None:
    depth = np.array([0.0, 1.0, 2.0, 8.0, np.inf], dtype=np.float32)
    assert relative_disparity(depth).tolist() == [0.0, 1.0, 1.0, 0.25, 0.0]


@pytest.mark.parametrize(
    ("normal", "through"),
    [
        (unit(0, 0, -1), (0, 0, 20)),
        (unit(1, 0, 0), (-3, 0, 10)),
        (unit(0.6, 0, -0.8), (0, 0, 15)),
        (unit(0.3, -0.5, -0.8), (1, 1, 6)),
        (unit(-0.9, 0.1, -0.3), (2, -1, 30)),
        (unit(0, -1, 0), (0, 1.5, 1)),
    ],
    ids=["wall ahead", "wall on the left", "slanted wall", "slope", "steep", "ground"],
)
def test_normals_of_a_plane_are_exact_up_to_its_borders(normal: Doubles, through: tuple[float, float, float]) -> None:
    depth = plane(normal, through)
    seen = depth > 0
    assert seen.sum() > 500
    normals = depth_to_normals(depth, CAMERA)
    assert normals.shape == (*SHAPE, 3)
    assert normals.dtype == np.float32
    np.testing.assert_allclose(normals[seen], np.broadcast_to(normal, (seen.sum(), 3)), atol=1e-3)
    assert not normals[~seen].any()


def test_normals_of_a_sphere_point_away_from_its_centre() -> None:
    centre, radius, camera = np.array([0.2, -0.1, 6.0]), 1.5, CAMERA._replace(fx=600.0, fy=600.0, cx=150, cy=150)
    ray = rays(camera, (300, 300))
    along, square = ray @ centre, (ray**2).sum(axis=-1)
    root = along**2 - square * (centre @ centre - radius**2)
    depth = np.where(root > 0, (along - np.sqrt(np.maximum(root, 0))) / square, 0)
    expected = (depth[..., None] * ray - centre) / radius
    normals = depth_to_normals(depth.astype(np.float32), camera)
    # at the rim a pixel spans many degrees
    facing = (depth > 0) & ((expected * ray).sum(axis=-1) / np.sqrt(square) < -0.4)
    cosine = np.clip((normals * expected).sum(axis=-1)[facing], -1, 1)
    assert facing.sum() > 40000
    assert np.degrees(np.arccos(cosine)).max() < 1.5


def test_normals_do_not_smear_over_an_occlusion_edge() -> None:
    near, far = unit(0.3, 0.2, -0.9), unit(-0.2, -0.6, -0.7)
    edge = (np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) > 50)[..., None]
    depth = np.where(edge[..., 0], plane(near, (0, 0, 5)), plane(far, (0, 0, 25)))
    error = np.abs(depth_to_normals(depth, CAMERA) - np.where(edge, near, far)).max(axis=-1)
    # where the edge meets the border, two pixels have no neighbour of their own surface in their column
    assert np.argwhere(error > 1e-3).tolist() == [[0, 50], [31, 20]]


def test_normals_leave_holes_empty_and_are_exact_beside_them() -> None:
    normal = unit(0.3, -0.5, -0.8)
    depth = plane(normal, (1, 1, 6))
    holes = np.random.default_rng(0).random(SHAPE) < 0.2
    depth[holes] = 0
    normals = depth_to_normals(depth, CAMERA)
    measured = np.pad(~holes, 1)
    in_row = measured[1:-1, :-2] | measured[1:-1, 2:]
    in_column = measured[:-2, 1:-1] | measured[2:, 1:-1]
    defined = ~holes & in_row & in_column
    assert defined.sum() < (~holes).sum() < holes.size
    np.testing.assert_allclose(normals[defined], np.broadcast_to(normal, (defined.sum(), 3)), atol=1e-3)
    assert not normals[~defined].any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_a_single_row_or_column_has_no_normals(shape: tuple[int, int]) -> None:
    assert not depth_to_normals(np.full(shape, 4, dtype=np.float32), CAMERA).any()


@pytest.mark.parametrize("depth", [0.0, np.inf])
def test_nothing_measured_gives_nothing(depth: float) -> None:
    nothing = np.full(SHAPE, depth, dtype=np.float32)
    assert not depth_to_normals(nothing, CAMERA).any()
    assert not depth_to_hha(np.zeros_like(nothing), CAMERA).any()


def test_inputs_stay_as_they_are() -> None:
    depth = plane(unit(0, -1, 0), (0, 1.5, 1))
    before = depth.copy()
    depth_to_hha(depth, CAMERA)
    assert np.array_equal(depth, before)


def test_hha_of_a_wall_ahead_is_as_computed_by_hand() -> None:
    hha = depth_to_hha(np.full(SHAPE, 20, dtype=np.float32), CAMERA)
    assert hha.shape == (*SHAPE, 3)
    assert hha.dtype == np.float32
    np.testing.assert_allclose(hha[..., 0], 0.1, atol=1e-6)  # 2 m / 20 m
    np.testing.assert_allclose(hha[..., 2], 0.5, atol=1e-3)
    # ten rows above the principal point is 20 m * 10 / 100 = 2 m above the camera, which is 1.5 m above the ground
    np.testing.assert_allclose(hha[4, :, 1], 0.35, atol=1e-6)
    np.testing.assert_allclose(hha[14, :, 1], 0.15, atol=1e-6)
    # ten rows below it is 2 m below the camera, so half a metre below the ground
    np.testing.assert_allclose(hha[24, :, 1], 0, atol=1e-6)


def test_height_ends_at_ten_metres_and_disparity_at_two() -> None:
    assert depth_to_hha(np.full(SHAPE, 100, dtype=np.float32), CAMERA)[0, 0, 1] == 1
    assert depth_to_hha(np.full(SHAPE, 0.5, dtype=np.float32), CAMERA)[0, 0, 0] == 1


@pytest.mark.parametrize("pitch", [0.0, 0.1, 0.4, -0.05])
def test_hha_of_ground_and_ceiling_follows_the_pitch(pitch: float) -> None:
    camera = CAMERA._replace(pitch=pitch)
    # a camera that looks down sees gravity turned from its y axis towards its viewing direction
    down = np.array([0, np.cos(pitch), np.sin(pitch)])
    ground = depth_to_hha(plane(-down, tuple(1.5 * down), camera), camera)
    seen = ground.any(axis=-1)
    assert seen.sum() > 500
    np.testing.assert_allclose(ground[seen][:, 1], 0, atol=1e-4)
    np.testing.assert_allclose(ground[seen][:, 2], 1, atol=1e-3)
    ceiling = depth_to_hha(plane(down, tuple(-2.5 * down), camera), camera)
    seen = ceiling.any(axis=-1)
    if pitch < 0.2:  # else it is out of sight
        np.testing.assert_allclose(ceiling[seen][:, 1], 0.4, atol=1e-4)
        np.testing.assert_allclose(ceiling[seen][:, 2], 0, atol=1e-3)


def test_hha_has_no_angle_where_there_is_no_normal() -> None:
    depth = np.zeros(SHAPE, dtype=np.float32)
    depth[14, 31] = 4
    hha = depth_to_hha(depth, CAMERA)
    np.testing.assert_allclose(hha[14, 31], [0.5, 0.15, 0], atol=1e-6)
    hha[14, 31] = 0
    assert not hha.any()
