from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datamodules.driving_scenes import DrivingScenes, RenderedFrames, render_scene
from datamodules.reading.frame import Camera, Frame
from datamodules.scenes.rendering import Box, Canvas, Material, Weather
from datamodules.scenes.street import (
    BUILDING,
    CAR,
    CLASSES,
    LANE_MARK,
    PERSON,
    POLE,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    TREE,
)

SIZE = (48, 160)
FLAT = (ROAD, LANE_MARK, SIDEWALK, TERRAIN)
CAMERA = Camera(fx=100.0, fy=100.0, cx=79.5, cy=23.5, baseline=0.5, height=1.5, pitch=0.1)
WEATHER = Weather(sun=(0.0, 1.0, 0.0), ambient=0.5, haze=(0.7, 0.7, 0.7), visibility=100.0, gain=1.0, noise=0.02)
GREY = Material((0.5, 0.5, 0.5), (0.4, 0.4, 0.4), "grains", 4.0)
LOOK = (GREY, GREY, GREY)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [render_scene((0, 0, index), SIZE, 0.5) for index in range(20)]


def digest(frame: Frame) -> str:
    return hashlib.sha256(b"".join(part.tobytes() for part in (frame.image, frame.depth, frame.target))).hexdigest()


def equal(first: Frame, second: Frame) -> bool:
    return first.camera == second.camera and digest(first) == digest(second)


def level_points(depth: NDArray[np.float32], camera: Camera) -> NDArray[np.float64]:
    """What a depth map shows, ``(H, W, 3)``, by the pinhole equations: x right, y up from the ground, z level ahead."""
    v, u = np.indices(depth.shape)
    z = depth.astype(np.float64)
    right, down = z * (u - camera.cx) / camera.fx, z * (v - camera.cy) / camera.fy
    sine, cosine = math.sin(camera.pitch), math.cos(camera.pitch)
    return np.stack([right, camera.height - (cosine * down + sine * z), cosine * z - sine * down], -1)


def empty_canvas(camera: Camera = CAMERA, size: tuple[int, int] = SIZE) -> Canvas:
    return Canvas(camera, size, WEATHER, GREY, SKY)


@pytest.mark.parametrize("size", [(48, 160), (33, 70), (96, 96)])
def test_frames_have_the_size_asked_for(size: tuple[int, int]) -> None:
    module = DrivingScenes(n_train=1, n_val=1, n_test=1, size=size)
    for frames in module.make_frames():
        image, depth, target, *_ = frames[0]
        assert [array.shape for array in (image, depth, target)] == [(*size, 3), size, size]
        assert [array.dtype.name for array in (image, depth, target)] == ["uint8", "float32", "uint8"]


def test_every_class_occurs_and_no_other_label_does(frames: list[Frame]) -> None:
    assert set(np.unique([frame.target for frame in frames])) == set(range(len(CLASSES)))


def test_classes_and_palette_name_and_colour_every_class() -> None:
    assert DrivingScenes.class_names == tuple(CLASSES)
    assert len(set(DrivingScenes.class_names)) == len(set(DrivingScenes.palette)) == 11


def test_depth_is_missing_in_the_sky_and_nowhere_else(frames: list[Frame]) -> None:
    for frame in frames:
        assert np.array_equal(frame.depth == 0, frame.target == SKY)


def test_ground_pixels_lie_on_the_ground(frames: list[Frame]) -> None:
    for frame in frames:
        y = level_points(frame.depth, frame.camera)[..., 1]
        assert np.abs(y[np.isin(frame.target, FLAT)]).max() < 1e-3


@pytest.mark.parametrize("label", [BUILDING, TREE, POLE, CAR, PERSON])
def test_things_stand_on_the_ground(frames: list[Frame], label: int) -> None:
    y = np.concatenate([level_points(f.depth, f.camera)[..., 1][f.target == label] for f in frames])
    assert y.min() > -1e-3
    assert y.min() < 0.1


def test_a_scene_is_the_same_from_every_module_that_has_it() -> None:
    few = DrivingScenes(n_train=2, n_val=2, n_test=2, size=SIZE, seed=5).make_frames()
    many = DrivingScenes(n_train=9, n_val=7, n_test=8, size=SIZE, seed=5, cache=False).make_frames()
    for first, second in zip(few, many, strict=True):
        # neither the number of scenes nor which was asked for before
        assert equal(first[1], second[1])
        assert equal(first[0], second[0])


def test_workers_render_the_same_scenes() -> None:
    def batches(num_workers: int) -> list[torch.Tensor]:
        module = DrivingScenes(4, 4, 4, size=SIZE, batch_size=2, num_workers=num_workers)
        module.setup()
        return [values for batch in module.val_dataloader() for values in batch.values()]

    here, there = batches(0), batches(2)
    assert len(here) == len(there) == 8
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_no_scene_is_in_two_places() -> None:
    digests = {
        digest(frame)
        for seed in (0, 1)
        for split in DrivingScenes(n_train=4, n_val=4, n_test=4, size=(24, 80), seed=seed).make_frames()
        for frame in (split[index] for index in range(4))
    }
    assert len(digests) == 24


def test_a_scene_has_the_same_contents_at_every_size(frames: list[Frame]) -> None:
    for index, small in enumerate(frames[:5]):
        large = render_scene((0, 0, index), (3 * SIZE[0], 3 * SIZE[1]), 0.5)
        # of three pixels in a row, the one in the middle has the ray of the small image's pixel
        same = small.target == large.target[1::3, 1::3]
        assert same.mean() > 0.999  # rounding, where an edge meets the ray
        np.testing.assert_allclose(small.depth[same], large.depth[1::3, 1::3][same], rtol=1e-3)
        smooth = large.image.reshape(SIZE[0], 3, SIZE[1], 3, 3).mean((1, 3))
        assert np.abs(small.image - smooth).mean() < 12


def test_ambiguity_changes_colours_and_no_geometry() -> None:
    plain, ambiguous = (render_scene((0, 0, 0), SIZE, ambiguity) for ambiguity in (0.0, 1.0))
    assert plain.camera == ambiguous.camera
    assert np.array_equal(plain.depth, ambiguous.depth)
    assert np.array_equal(plain.target, ambiguous.target)
    assert np.abs(plain.image.astype(float) - ambiguous.image).mean() > 5


def separability(features: NDArray[np.float64], upright: NDArray[np.bool_]) -> float:
    """Mean class accuracy of the nearest class mean."""
    means = [features[upright == value].mean(0) for value in (False, True)]
    nearer = ((features - means[1]) ** 2).sum(-1) < ((features - means[0]) ** 2).sum(-1)
    return float(np.mean([(nearer == upright)[upright == value].mean() for value in (False, True)]))


def test_height_tells_cars_from_the_road_and_colour_does_not(frames: list[Frame]) -> None:
    colours, heights, cars = [], [], []
    for frame in frames:
        chosen = np.isin(frame.target, (ROAD, CAR))
        colours.append(frame.image[chosen].astype(float))
        heights.append(level_points(frame.depth, frame.camera)[..., 1:2][chosen])
        cars.append(frame.target[chosen] == CAR)
    is_car = np.concatenate(cars)
    assert separability(np.concatenate(colours), is_car) < 0.7
    assert separability(np.concatenate(heights), is_car) > 0.8


def test_batches_hold_the_modalities() -> None:
    module = DrivingScenes(n_train=3, n_val=2, n_test=2, size=SIZE, geometry=("depth", "normal"), batch_size=2)
    module.setup()
    batch = next(iter(module.val_dataloader()))
    assert {name: tuple(tensor.shape[1:]) for name, tensor in batch.items()} == {
        "image": (3, *SIZE),
        "depth": (1, *SIZE),
        "normal": (3, *SIZE),
        "target": SIZE,
        "index": (),
    }
    expected = module.make_frames()[1][0].depth
    torch.testing.assert_close(batch["depth"][0, 0], torch.tensor(expected / np.float32(80)).clamp(max=1))
    assert module.num_classes == 11


@pytest.mark.filterwarnings("error")
def test_depth_can_be_the_target_and_batches_cannot_reach_cached_frames() -> None:
    module = DrivingScenes(n_train=2, n_val=1, n_test=1, size=SIZE, target="depth", geometry=[])
    module.setup()
    sample = module.splits.train[1]
    frame = render_scene((0, 0, 1), SIZE, 0.3)
    assert sample["target"].shape == (1, *SIZE)
    assert np.array_equal(sample["target"][0].numpy(), frame.depth)
    sample["target"].zero_()
    assert torch.equal(module.splits.train[1]["target"][0], torch.tensor(frame.depth))


def test_stored_responses_fit_the_scenes_of_one_seed_and_ambiguity_alone(tmp_path: Path) -> None:
    def setup(**arguments: float) -> None:
        module = DrivingScenes(1, 1, 1, size=SIZE, responses=tmp_path, **arguments)  # type: ignore[arg-type]
        module.setup()
        assert (module.splits.train[0]["teacher_prediction"] == 3).all()

    for split in ("train", "val", "test"):
        (tmp_path / "seed_4_ambiguity_0.0" / split).mkdir(parents=True)
        path = tmp_path / "seed_4_ambiguity_0.0" / split / "000000.npz"
        np.savez_compressed(path, depth=np.full(SIZE, 3, np.float32))
    setup(seed=4, ambiguity=0)
    for seed, ambiguity in ((5, 0), (4, 0.3)):
        with pytest.raises(FileNotFoundError, match=rf"the first is seed_{seed}_ambiguity_.*/train/000000.png or .npz"):
            setup(seed=seed, ambiguity=ambiguity)


def test_cached_frames_are_rendered_once_and_cannot_be_written_to() -> None:
    kept = RenderedFrames(seed=0, split=0, count=2, size=SIZE, ambiguity=0.5, cache=True)
    assert kept[1] is kept[1]
    with pytest.raises(ValueError, match="read-only"):
        kept[1].depth[0, 0] = 1.0
    fresh = RenderedFrames(seed=0, split=0, count=2, size=SIZE, ambiguity=0.5, cache=False)
    assert fresh[1] is not fresh[1]
    assert equal(fresh[1], kept[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 0}, "n_train must be at least 1, got 0"),
        ({"n_val": -1}, "n_val must be at least 1, got -1"),
        ({"n_test": 0}, "n_test must be at least 1, got 0"),
        ({"size": (0, 160)}, "height must be at least 1, got 0"),
        ({"ambiguity": 1.5}, r"ambiguity must lie in \[0, 1\], got 1\.5"),
        ({"ambiguity": float("nan")}, r"ambiguity must lie in \[0, 1\], got nan"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DrivingScenes(**arguments)  # type: ignore[arg-type]


def test_a_scene_that_is_not_there_is_refused() -> None:
    frames = DrivingScenes(n_train=2).make_frames()[0]
    with pytest.raises(IndexError, match="scene 2 is not among the 2 of this split"):
        frames[2]


def test_a_wall_across_the_view_has_the_depth_it_was_put_at() -> None:
    level = CAMERA._replace(pitch=0.0)
    canvas = empty_canvas(level)
    canvas.draw_box(Box(x=0, z=12, yaw=0, width=2, length=4, bottom=0.5, top=3), LOOK, BUILDING)
    # the near side is at z = 10: x from -1 to 1 is 10 pixels either way, y from 0.5 to 3 is 10 below to 15 above
    expected = np.zeros(SIZE)
    expected[9:34, 70:90] = 10
    np.testing.assert_allclose(canvas.depth(), expected, rtol=1e-6)
    assert np.array_equal(canvas.target(), np.where(expected > 0, BUILDING, SKY))


@pytest.mark.parametrize("yaw", [0.0, 0.4, -1.2])
def test_a_turned_box_is_seen_on_its_faces(yaw: float) -> None:
    canvas = empty_canvas()
    box = Box(x=1, z=8, yaw=yaw, width=2, length=3, bottom=0, top=1, front=0.3, rear=0.2, side=0.1)
    canvas.draw_box(box, LOOK, CAR)
    x, y, z = np.moveaxis(level_points(canvas.depth(), CAMERA)[canvas.target() == CAR], -1, 0)
    sine, cosine = math.sin(yaw), math.cos(yaw)
    across, along = (x - 1) * cosine - (z - 8) * sine, (x - 1) * sine + (z - 8) * cosine
    # metres within each face
    inside = np.stack([1 - across - 0.1 * y, 1 + across - 0.1 * y, 1.5 - along - 0.3 * y, 1.5 + along - 0.2 * y, 1 - y])
    assert len(x) > 300
    assert np.abs(inside.min(0)).max() < 1e-4
    assert (inside[4] < 1e-4).any()  # from 1.5 m the top is in view


def test_round_things_are_round() -> None:
    ball = empty_canvas()
    ball.draw_ellipsoid((0.5, 1.5, 9.0), (1.5, 1.0, 2.0), GREY, TREE)
    x, y, z = np.moveaxis(level_points(ball.depth(), CAMERA)[ball.target() == TREE], -1, 0)
    assert len(x) > 200
    np.testing.assert_allclose(((x - 0.5) / 1.5) ** 2 + (y - 1.5) ** 2 + ((z - 9) / 2) ** 2, 1, atol=1e-4)

    column = empty_canvas()
    column.draw_cylinder((0.5, 2.0, 9.0), 0.7, 4.0, GREY, POLE)
    x, y, z = np.moveaxis(level_points(column.depth(), CAMERA)[column.target() == POLE], -1, 0)
    assert len(x) > 200
    np.testing.assert_allclose(np.hypot(x - 0.5, z - 9), 0.7, atol=1e-4)
    assert y.min() > -1e-4
    assert y.max() < 4


def put_car(canvas: Canvas) -> None:
    canvas.draw_box(Box(0.3, 7, 0.3, 2, 4, 0, 1.4), LOOK, CAR)


def put_house(canvas: Canvas) -> None:
    canvas.draw_box(Box(2, 9, 0, 3, 3, 0, 3), LOOK, BUILDING)


def put_tree(canvas: Canvas) -> None:
    canvas.draw_ellipsoid((0.5, 1.5, 7.5), (1.5, 1.0, 1.5), GREY, TREE, ragged=0.6)


def put_pole(canvas: Canvas) -> None:
    canvas.draw_cylinder((1.0, 2.0, 7.0), 0.5, 4.0, GREY, POLE)


THINGS: list[Callable[[Canvas], None]] = [put_car, put_house, put_tree, put_pole]


def test_the_nearest_thing_is_seen_whatever_is_drawn_first() -> None:
    alone = []
    for put in THINGS:
        canvas = empty_canvas()
        put(canvas)
        alone.append(np.where(canvas.depth() > 0, canvas.depth(), np.inf))
    nearest = np.min(alone, 0)
    labels = np.where(np.isinf(nearest), SKY, np.array([CAR, BUILDING, TREE, POLE])[np.argmin(alone, 0)])
    images = set()
    for order in permutations(THINGS):
        canvas = empty_canvas()
        for put in order:
            put(canvas)
        assert np.array_equal(np.where(canvas.depth() > 0, canvas.depth(), np.inf), nearest)
        assert np.array_equal(canvas.target(), labels)
        images.add(canvas.image(np.random.default_rng(0)).tobytes())
    assert len(images) == 1


def test_things_behind_the_camera_are_not_seen_and_those_beside_it_are() -> None:
    canvas = empty_canvas()
    canvas.draw_box(Box(0, -6, 0, 2, 4, 0, 3), LOOK, CAR)
    assert not canvas.depth().any()
    canvas.draw_box(Box(3, 0, 0, 2, 20, 0, 3), LOOK, BUILDING)
    points = level_points(canvas.depth(), CAMERA)[canvas.target() == BUILDING]
    assert len(points) > 500
    np.testing.assert_allclose(points[:, 0], 2, atol=1e-4)  # the wall is 2 m to the right


def test_a_shadow_lies_away_from_the_sun() -> None:
    weather = WEATHER._replace(sun=(0.6, 0.8, 0.0), noise=0.0, visibility=1e6)
    plain = Material((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "plain", 4.0)
    canvas = Canvas(CAMERA, SIZE, weather, plain, SKY)
    road = canvas.add_ground(plain, ROAD)
    canvas.draw_ground(lambda x, z: np.full(np.broadcast_shapes(x.shape, z.shape), road))
    canvas.draw_shadow(Box(x=0, z=6, yaw=0, width=1, length=2, bottom=0, top=2), road)
    x, _, z = np.moveaxis(level_points(canvas.depth(), CAMERA), -1, 0)
    # 2 m of height and a slope of 0.6 / 0.8 throw it 1.5 m to the left of the footprint
    depths = (z > 5.4) & (z < 6.6)
    shaded = depths & (x > -1.8) & (x < 0.3)
    sunny = depths & (((x > -4) & (x < -2.2)) | ((x > 0.7) & (x < 4)))
    brightness = canvas.image(np.random.default_rng(0))[..., 0]
    assert shaded.sum() > 50
    # ambient 0.5 alone, and with Lambert's 0.5 * 0.8
    np.testing.assert_allclose(brightness[shaded], 255 * 0.5 * 0.5, atol=1)
    np.testing.assert_allclose(brightness[sunny], 255 * 0.5 * 0.9, atol=1)


def test_patches_lie_where_they_are_put_and_only_on_their_ground() -> None:
    canvas = empty_canvas()
    road, walk = canvas.add_ground(GREY, ROAD), canvas.add_ground(GREY, SIDEWALK)
    canvas.draw_ground(lambda x, z: np.where(x + 0 * z < 0.5, road, walk))
    canvas.draw_patch(Box(x=0, z=6, yaw=0, width=2, length=3, bottom=0, top=0), canvas.add_ground(GREY, TERRAIN), road)
    x, _, z = np.moveaxis(level_points(canvas.depth(), CAMERA), -1, 0)
    expected = (x > -1) & (x < 0.5) & (z > 4.5) & (z < 7.5)
    assert np.array_equal(canvas.target() == TERRAIN, expected)


def test_far_things_take_the_colour_of_the_haze() -> None:
    weather = WEATHER._replace(noise=0.0, visibility=100.0, haze=(0.2, 0.5, 0.9))
    black = Material((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "plain", 4.0)
    canvas = Canvas(CAMERA._replace(pitch=0.0), SIZE, weather, black, SKY)
    canvas.draw_box(Box(x=0, z=55, yaw=0, width=200, length=10, bottom=-100, top=100), (black,) * 3, BUILDING)
    colour = canvas.image(np.random.default_rng(0))[24, 80]
    np.testing.assert_allclose(colour, 255 * (1 - math.exp(-0.5)) * np.array([0.2, 0.5, 0.9]), atol=1)


def test_textures_stay_on_their_walls_in_perspective() -> None:
    weather = WEATHER._replace(noise=0.0, visibility=1e6)
    windows = Material((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), "windows", 6.0)
    canvas = Canvas(CAMERA, (96, 320), weather, GREY, SKY)
    canvas.draw_box(Box(x=4, z=15, yaw=0, width=2, length=24, bottom=0, top=6), (windows,) * 3, BUILDING)
    points = level_points(canvas.depth(), CAMERA)
    wall = (np.abs(points[..., 0] - 3) < 0.01) & (points[..., 2] > 3.1) & (points[..., 2] < 9)
    # three windows in 6 m of wall, each 0.44 of its share wide and 0.6 high, counted from the near end
    along, down = (points[..., 2] - 3) / 2 % 1, (6 - points[..., 1]) / 2 % 1
    pane = wall & (np.abs(along - 0.5) < 0.15) & (np.abs(down - 0.5) < 0.2)
    frame = wall & ((np.abs(along - 0.5) > 0.3) | (np.abs(down - 0.5) > 0.4))
    brightness = canvas.image(np.random.default_rng(0))[..., 0]
    assert pane.sum() > 50
    assert brightness[pane].max() < brightness[frame].min()
