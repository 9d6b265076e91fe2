from __future__ import annotations

import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lightning import seed_everything
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from numpy.typing import NDArray

from datamodules.augmentation import FILL_COLOUR, PairedAugmentation
from datamodules.reading.arrays import Floats, Pixels
from datamodules.serving.sampling import SeededIndex, SeededSampler

Bytes = NDArray[np.uint8]

HEIGHT, WIDTH = 40, 96
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
IMAGE = np.stack([2 * COLUMNS, 4 * ROWS, np.full_like(ROWS, 90)], axis=-1).astype(np.uint8)
DEPTH = (1 + COLUMNS + 1000 * ROWS).astype(np.float32)
TARGET = (ROWS // 5 + 8 * (COLUMNS // 12)).astype(np.uint8)
NORMAL = np.broadcast_to(np.array([0.6, 0, -0.8], dtype=np.float32), (HEIGHT, WIDTH, 3))


def geometric(flip: float = 0.5, scale: tuple[float, float] = (1.0, 1.5)) -> PairedAugmentation:
    return PairedAugmentation(flip, scale, brightness=0, contrast=0, saturation=0, hue=0)


class Sample(NamedTuple):
    image: Pixels
    target: Bytes
    depth: Floats
    normal: Floats


def same(first: Sample, second: Sample) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in Sample._fields)


def augmented(augmentation: PairedAugmentation, seed: int) -> Sample:
    image, target, geometry = augmentation(IMAGE, TARGET, {"depth": DEPTH, "normal": NORMAL}, seed)
    assert list(geometry) == ["depth", "normal"]
    assert image.dtype == target.dtype == np.uint8
    assert geometry["depth"].dtype == geometry["normal"].dtype == np.float32
    assert image.shape == IMAGE.shape
    assert target.shape == TARGET.shape
    return Sample(image, target, **geometry)


def test_nothing_changes_where_all_is_switched_off() -> None:
    image, target, depth, normal = augmented(geometric(0, (1, 1)), seed=1)
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(target, TARGET)
    assert np.array_equal(depth, DEPTH)
    assert np.array_equal(normal, NORMAL)


def test_a_flip_mirrors_everything_and_the_normals_x() -> None:
    image, target, depth, normal = augmented(geometric(1, (1, 1)), seed=1)
    assert np.array_equal(image, IMAGE[:, ::-1])
    assert np.array_equal(target, TARGET[:, ::-1])
    assert np.array_equal(depth, DEPTH[:, ::-1])
    assert np.array_equal(normal, NORMAL * np.array([-1, 1, 1]))


def test_a_flip_mirrors_the_points_of_a_lidar_and_their_y() -> None:
    points = np.random.default_rng(0).uniform(-9, 9, (HEIGHT, WIDTH, 5)).astype(np.float32)
    _, _, moved = geometric(1, (1, 1))(IMAGE, TARGET, {"lidar": points}, seed=1)
    assert np.array_equal(moved["lidar"], points[:, ::-1] * np.array([1, 1, -1, 1, 1], np.float32))


def test_a_rotation_turns_the_points_of_a_lidar_with_their_pixels() -> None:
    # a lidar's x is ahead, y left and z up; a camera of focal length 50 sits in it and looks ahead
    depth = np.random.default_rng(0).uniform(5, 20, (HEIGHT, WIDTH))
    right, down = (COLUMNS - (WIDTH - 1) / 2) / 50 * depth, (ROWS - (HEIGHT - 1) / 2) / 50 * depth
    points = np.stack([np.sqrt(depth**2 + right**2 + down**2), depth, -right, -down, depth / 20], -1)
    augmentation = PairedAugmentation(0.5, (1, 1), brightness=0, contrast=0, saturation=0, hue=0, rotation=40)
    for seed in range(4):
        _, _, moved = augmentation(IMAGE, TARGET, {"lidar": points.astype(np.float32)}, seed)
        distance, ahead, left, up, intensity = np.moveaxis(moved["lidar"], -1, 0)
        seen = distance > 0
        assert 0.5 < seen.mean() < 1
        # half a pixel to the nearest one, along the diagonal
        for plane, tangent in ((COLUMNS - (WIDTH - 1) / 2, -left), (ROWS - (HEIGHT - 1) / 2, -up)):
            assert np.abs(plane[seen] - 50 * tangent[seen] / ahead[seen]).max() < 0.5**0.5 + 0.01
        np.testing.assert_allclose(distance**2, ahead**2 + left**2 + up**2, rtol=1e-4)
        np.testing.assert_allclose(intensity, ahead / 20, rtol=1e-5)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.0, 2.5), (0.6, 0.9), (1.7, 1.7)])
def test_image_depth_and_labels_stay_registered(scale: tuple[float, float]) -> None:
    augmentation, offsets = geometric(scale=scale), []
    for seed in range(20):
        image, target, depth, _ = augmented(augmentation, seed)
        seen = depth > 0
        columns, rows = (depth[seen] - 1) % 1000, (depth[seen] - 1) // 1000
        assert np.array_equal(target[seen], rows // 5 + 8 * (columns // 12))
        # colours that grow evenly do so between the pixels as well, but not over the frame's border
        inside = (columns > 0) & (columns < WIDTH - 1) & (rows > 0) & (rows < HEIGHT - 1)
        offset = np.stack([image[seen][:, 0] / 2 - columns, image[seen][:, 1] / 4 - rows])[:, inside]
        # half a pixel to the nearest, and half a step of colour
        assert np.abs(offset).max() <= 0.5 + 0.25 + 1e-3
        offsets.append(offset.mean(axis=1))
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.05


def test_no_depth_and_no_label_is_invented() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(2, 80, (HEIGHT, WIDTH)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = 0
    target = rng.choice(np.array([0, 3, 7, 255], dtype=np.uint8), depth.shape)
    augmentation = PairedAugmentation(scale=(0.7, 1.9))
    for seed in range(10):
        _, labels, geometry = augmentation(IMAGE, target, {"depth": depth}, seed)
        assert np.isin(geometry["depth"], depth).all()
        assert np.isin(labels, target).all()
        assert np.array_equal(np.unique(labels), [0, 3, 7, 255])


def test_a_zoom_shows_a_window_anywhere_in_the_frame() -> None:
    augmentation, corners = geometric(0, (2, 2)), []
    for seed in range(200):
        _, _, depth, _ = augmented(augmentation, seed)
        columns, rows = np.unique((depth - 1) % 1000), np.unique((depth - 1) // 1000)
        assert np.array_equal(columns, np.arange(columns[0], columns[0] + len(columns)))
        assert len(columns) in (WIDTH // 2, WIDTH // 2 + 1)
        assert len(rows) in (HEIGHT // 2, HEIGHT // 2 + 1)
        corners.append((columns[0], rows[0]))
    assert np.min(corners, axis=0).tolist() == [0, 0]
    assert np.max(corners, axis=0).tolist() in ([WIDTH // 2, HEIGHT // 2], [WIDTH // 2 - 1, HEIGHT // 2 - 1])


def test_beyond_the_frame_is_grey_ignored_and_not_measured() -> None:
    image, target, depth, normal = augmented(geometric(0, (0.5, 0.5)), seed=2)
    beyond = depth == 0
    assert (~beyond).sum() == HEIGHT * WIDTH / 4
    assert (target[beyond] == 255).all()
    assert not normal[beyond].any()
    # beside the frame its border shines through
    row, column = (int(where.mean()) for where in np.nonzero(~beyond))
    far = (np.abs(ROWS - row) > HEIGHT // 4 + 2) | (np.abs(COLUMNS - column) > WIDTH // 4 + 2)
    assert (image[far] == FILL_COLOUR).all()


def test_colour_changes_the_image_alone() -> None:
    image, target, depth, normal = augmented(PairedAugmentation(0, (1, 1)), seed=3)
    assert not np.array_equal(image, IMAGE)
    assert np.array_equal(target, TARGET)
    assert np.array_equal(depth, DEPTH)
    assert np.array_equal(normal, NORMAL)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_argument_changes_colours(name: str) -> None:
    off: dict[str, float] = {"flip": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    augmentation = PairedAugmentation(scale=(1, 1), **off | {name: 0.4})  # type: ignore[arg-type]
    assert not np.array_equal(augmentation(IMAGE, TARGET, {}, 0)[0], IMAGE)


def test_a_brightness_factor_stays_in_its_range() -> None:
    augmentation = PairedAugmentation(0, (1, 1), brightness=0.2, contrast=0, saturation=0, hue=0)
    factors = [augmentation(IMAGE, TARGET, {}, seed)[0][0, 0, 2] / 90 for seed in range(200)]
    assert 0.79 <= min(factors) < 0.83
    assert 1.17 < max(factors) <= 1.21


def test_a_seed_settles_everything_whatever_came_before() -> None:
    augmentation = PairedAugmentation()
    first = augmented(augmentation, seed=5)
    other = augmented(augmentation, seed=6)
    again = augmented(pickle.loads(pickle.dumps(PairedAugmentation())), seed=5)
    assert same(first, again)
    assert same(first, augmented(augmentation, seed=5))
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(first.depth, other.depth)


def test_metres_of_target_and_teacher_move_with_the_depth_under_them() -> None:
    augmentation = PairedAugmentation(scale=(0.7, 1.5), rotation=10)
    for seed in range(5):
        maps = {"depth": DEPTH, "teacher_prediction": 2 * DEPTH, "target": 3 * DEPTH}
        _, _, moved = augmentation(IMAGE, TARGET, maps, seed)
        assert list(moved) == ["depth", "teacher_prediction", "target"]
        assert not np.array_equal(moved["depth"], DEPTH)
        assert np.array_equal(moved["teacher_prediction"], 2 * moved["depth"])
        assert np.array_equal(moved["target"], 3 * moved["depth"])


def test_a_crop_shows_whole_pixels_of_a_window_anywhere_in_the_frame() -> None:
    augmentation = PairedAugmentation(0, (1, 1), brightness=0, contrast=0, saturation=0, hue=0, crop=(30, 64))
    corners = []
    for seed in range(300):
        image, target, maps = augmentation(IMAGE, TARGET, {"depth": DEPTH}, seed)
        top, left = (int(maps["depth"][0, 0]) - 1) // 1000, (int(maps["depth"][0, 0]) - 1) % 1000
        window = slice(top, top + 30), slice(left, left + 64)
        assert np.array_equal(image, IMAGE[window])
        assert np.array_equal(target, TARGET[window])
        assert np.array_equal(maps["depth"], DEPTH[window])
        corners.append((top, left))
    assert np.min(corners, axis=0).tolist() == [0, 0]
    assert np.max(corners, axis=0).tolist() == [HEIGHT - 30, WIDTH - 64]
    assert np.mean(corners, axis=0) == pytest.approx([5, 16], abs=1.5)


def test_a_crop_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="a crop of 41 x 90 does not fit into 40 x 96 pixels"):
        PairedAugmentation(crop=(41, 90))(IMAGE, TARGET, {}, 0)


def test_image_depth_and_labels_turn_together_about_the_centre() -> None:
    augmentation = PairedAugmentation(0, (1, 1), brightness=0, contrast=0, saturation=0, hue=0, rotation=20)
    angles = []
    for seed in range(40):
        image, target, depth, normal = augmented(augmentation, seed)
        seen = depth > 0
        columns, rows = (depth[seen] - 1) % 1000, (depth[seen] - 1) // 1000
        assert np.array_equal(target[seen], rows // 5 + 8 * (columns // 12))
        assert (target[~seen] == 255).all()
        inside = (columns > 1) & (columns < WIDTH - 2) & (rows > 1) & (rows < HEIGHT - 2)
        offset = np.stack([image[seen][:, 0] / 2 - columns, image[seen][:, 1] / 4 - rows])[:, inside]
        assert np.abs(offset).max() <= 0.5 + 0.25 + 0.05
        # displacements between pixels of the frame appear turned, and so do normals
        old = np.stack([columns - (WIDTH - 1) / 2, rows - (HEIGHT - 1) / 2])
        new = np.stack([COLUMNS[seen] - (WIDTH - 1) / 2, ROWS[seen] - (HEIGHT - 1) / 2])
        angle = np.arctan2((old[0] * new[1] - old[1] * new[0]).sum(), (old * new).sum())
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assert np.abs(turn @ old - new).max() < 0.8
        np.testing.assert_allclose(normal[seen][0, :2], turn @ [0.6, 0], atol=5e-3)
        np.testing.assert_allclose(np.linalg.norm(normal[seen], axis=-1), 1, rtol=1e-5)
        angles.append(np.degrees(angle))
    assert -20.5 < min(angles) < -15
    assert 15 < max(angles) < 20.5


def test_half_of_the_frames_are_flipped() -> None:
    flipped = [augmented(geometric(scale=(1, 1)), seed).depth[0, 0] != DEPTH[0, 0] for seed in range(200)]
    assert 70 < sum(flipped) < 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip": 1.5}, r"flip must lie in \[0, 1\], got 1\.5"),
        ({"brightness": -0.1}, r"brightness must lie in \[0, 1\], got -0\.1"),
        ({"hue": 0.6}, r"hue must lie in \[0, 0\.5\], got 0\.6"),
        ({"saturation": float("nan")}, r"saturation must lie in \[0, 1\], got nan"),
        ({"scale": (2.0, 1.0)}, r"scale must be two zooms above 0, the smaller one first, got 2\.0 and 1\.0"),
        ({"rotation": -1.0}, r"rotation must lie in \[0, 180\], got -1\.0"),
        ({"crop": (0, 4)}, "crop_height must be at least 1, got 0"),
        ({"scale": (0.0, 1.0)}, r"scale must be two zooms above 0, the smaller one first, got 0\.0 and 1\.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairedAugmentation(**arguments)  # type: ignore[arg-type]


def test_a_plain_loop_follows_seed_everything_and_changes_each_time() -> None:
    sampler, loops = SeededSampler(20), []
    for _ in range(2):
        seed_everything(5, verbose=False)
        loops.append([list(sampler) for _ in range(2)])
    assert loops[0] == loops[1]
    first, second = loops[0]
    assert sorted(draw.position for draw in first) == list(range(20))
    assert [draw.position for draw in first] != [draw.position for draw in second]
    assert not {draw.seed for draw in first} & {draw.seed for draw in second}
    assert len({draw.seed for draw in first}) == 20


def test_a_numbered_epoch_depends_on_its_number_and_seed_everything_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def draws(seed: str, epoch: int, state: int) -> list[SeededIndex]:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        torch.manual_seed(state)
        before = torch.get_rng_state()
        sampler = SeededSampler(20)
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert torch.equal(torch.get_rng_state(), before)
        assert drawn == list(sampler) == list(SeededSampler(20, epoch))
        return drawn

    assert draws("3", 4, state=0) == draws("3", 4, state=1)
    assert draws("3", 4, state=0) != draws("3", 5, state=0)
    assert draws("3", 4, state=0) != draws("4", 4, state=0)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert list(SeededSampler(20, 4)) == draws("0", 4, state=0)


def test_processes_with_other_random_states_share_the_samples_and_their_draws() -> None:
    for epoch in range(2):
        shares: list[list[SeededIndex]] = []
        for rank in range(2):
            torch.manual_seed(rank)
            # what Lightning wraps the sampler of a loader in
            wrapped = DistributedSamplerWrapper(SeededSampler(20), num_replicas=2, rank=rank, shuffle=True, seed=0)
            wrapped.set_epoch(epoch)
            shares.append(list(wrapped))
        assert [len(share) for share in shares] == [10, 10]
        assert sorted(shares[0] + shares[1]) == sorted(SeededSampler(20, epoch))
