from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from datamodules.augmentation import PairedAugmentation
from datamodules.frames import FrameDataModule
from datamodules.reading.frame import Camera, Frame, Frames
from datamodules.reading.responses import StoredResponses
from datamodules.serving.datasets import collate
from datamodules.serving.frame_pairs import FramePairs
from datamodules.serving.geometry import Geometry
from datamodules.serving.sampling import SeededIndex
from distill.outputs import Batch

CAMERA = Camera(fx=60.0, fy=50.0, cx=23.5, cy=12.0, baseline=0.5, height=1.5)
ALL: tuple[Geometry, ...] = ("depth", "disparity", "normal", "hha")
NORMAL = np.array([0.48, 0.6, -0.64])


def random_frame(seed: int, height: int = 24, width: int = 48) -> Frame:
    rng = np.random.default_rng(seed)
    return Frame(
        image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        depth=rng.uniform(1, 90, (height, width)).astype(np.float32),
        target=rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (height, width)),
        camera=CAMERA,
    )


def plane_frame(height: int = 24, width: int = 48) -> Frame:
    """A plane with the normal ``NORMAL``, 10 m ahead."""
    v, u = np.mgrid[:height, :width].astype(np.float64)
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)], axis=-1)
    depth = (-6.4 / (rays @ NORMAL)).astype(np.float32)
    assert depth.min() > 0
    return random_frame(0, height, width)._replace(depth=depth)


class Toy(FrameDataModule):
    """Random frames: twelve to train on, three to validate and three to test."""

    class_names = ("road", "car", "sky")
    palette = ((128, 64, 128), (0, 0, 142), (70, 130, 180))

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        frames = [random_frame(position) for position in range(18)]
        return frames[:12], frames[12:15], frames[15:]


def ready(**arguments: Any) -> Toy:
    module = Toy(**arguments)
    module.setup()
    return module


def same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_sample_holds_image_geometry_target_and_index() -> None:
    frame = random_frame(0)
    sample = FramePairs([frame], 3, ALL)[0]
    channels = {"image": 3, "depth": 1, "disparity": 1, "normal": 3, "hha": 3}
    assert list(sample) == [*channels, "target", "index"]
    for name, count in channels.items():
        assert sample[name].shape == (count, 24, 48)
        assert sample[name].dtype == torch.float32
        assert sample[name].is_contiguous()
    assert sample["target"].dtype == sample["index"].dtype == torch.int64
    assert np.array_equal(sample["target"].numpy(), frame.target)
    assert sample["index"].item() == 0


def test_batches_are_channels_last_in_memory_and_the_same_in_value() -> None:
    pairs = FramePairs([random_frame(0), random_frame(1)], 3, ALL)
    batch = pairs.__getitems__([0, 1])
    for name in ("image", "normal", "hha"):
        assert batch[name].is_contiguous(memory_format=torch.channels_last)
        assert not batch[name].is_contiguous()
    assert all(torch.equal(batch[name][1], pairs[1][name]) for name in batch)


def test_images_are_normalised_as_timms_encoders_want() -> None:
    frame = random_frame(1)
    mean, std = np.array(IMAGENET_DEFAULT_MEAN), np.array(IMAGENET_DEFAULT_STD)
    expected = ((frame.image / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(FramePairs([frame], 3)[0]["image"].numpy(), expected, atol=1e-5)


def test_depth_and_disparity_are_scaled_by_distances_alone() -> None:
    frame = random_frame(0)
    frame.depth[0, :5] = [0, 1, 2, 40, 1000]
    sample = FramePairs([frame], 3, ("depth", "disparity"), max_depth=50.0)[0]
    assert sample["depth"][0, 0, :5].tolist() == pytest.approx([0, 0.02, 0.04, 0.8, 1])
    assert sample["disparity"][0, 0, :5].tolist() == pytest.approx([0, 1, 1, 0.05, 0.002])


def test_a_wall_ahead_has_the_normal_and_hha_of_a_wall() -> None:
    frame = random_frame(0)._replace(depth=np.full((24, 48), 8, dtype=np.float32))
    sample = FramePairs([frame], 3, ALL)[0]
    torch.testing.assert_close(sample["normal"][:, 5, 7], torch.tensor([0.0, 0.0, -1.0]), atol=1e-3, rtol=0)
    # the row of the principal point is as high as the camera
    torch.testing.assert_close(sample["hha"][:, 12, 7], torch.tensor([0.25, 0.15, 0.5]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(24, 48), (12, 24), (31, 50), (72, 144), (24, 20)])
def test_geometry_of_a_plane_survives_resizing(size: tuple[int, int]) -> None:
    sample = FramePairs([plane_frame()], 3, ALL, size)[0]
    expected = torch.from_numpy(NORMAL).float()[:, None, None].expand(3, *size)
    torch.testing.assert_close(sample["normal"], expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(sample["disparity"], 2 / (80 * sample["depth"]), atol=1e-5, rtol=1e-5)
    assert all(values.shape[-2:] == size for name, values in sample.items() if name != "index")


def test_resizing_takes_the_nearest_depth_and_label_and_the_mean_colour() -> None:
    frame = random_frame(0, 6, 9)
    smaller = FramePairs([frame], 3, size=(2, 3))[0]
    assert np.array_equal(smaller["target"].numpy(), frame.target[1::3, 1::3])
    assert np.allclose(80 * smaller["depth"][0].numpy(), np.minimum(frame.depth[1::3, 1::3], 80))
    colours = frame.image.reshape(2, 3, 3, 3, 3).mean(axis=(1, 3))
    seen = smaller["image"].numpy().transpose(1, 2, 0) * IMAGENET_DEFAULT_STD + IMAGENET_DEFAULT_MEAN
    assert np.abs(255 * seen - colours).max() < 0.51
    larger = FramePairs([frame], 3, size=(18, 27))[0]
    assert np.array_equal(larger["target"].numpy(), frame.target.repeat(3, axis=0).repeat(3, axis=1))


def test_resized_images_and_depths_stay_registered() -> None:
    rows, columns = np.mgrid[:24, :48]
    image = np.stack([5 * columns, 10 * rows, rows], axis=-1).astype(np.uint8)
    frame = Frame(image, (1 + columns + 100 * rows).astype(np.float32), np.zeros((24, 48), np.uint8), CAMERA)
    for size in [(17, 31), (8, 16), (50, 100), (31, 31)]:
        sample = FramePairs([frame], 3, size=size, max_depth=5000)[0]
        colours = 255 * (sample["image"].numpy().transpose(1, 2, 0) * IMAGENET_DEFAULT_STD + IMAGENET_DEFAULT_MEAN)
        depth = np.round(5000 * sample["depth"][0].numpy())
        offset = np.stack([colours[..., 0] / 5 - (depth - 1) % 100, colours[..., 1] / 10 - (depth - 1) // 100])
        inner = offset[:, 2:-2, 2:-2]
        assert np.abs(inner).max() <= 0.5 + 0.11
        assert np.abs(inner.mean(axis=(1, 2))).max() < 0.06


def test_normals_of_an_augmented_plane_are_the_planes() -> None:
    pairs = FramePairs([plane_frame()], 3, ALL, augmentation=PairedAugmentation(scale=(0.7, 2.0)))
    mirrored = []
    for seed in range(12):
        sample = pairs[SeededIndex(0, seed)]
        seen = sample["depth"][0] > 0
        x = float(sample["normal"][0][seen][0])
        mirrored.append(x < 0)
        expected = torch.from_numpy(NORMAL * [np.sign(x), 1, 1]).float()
        torch.testing.assert_close(sample["normal"][:, seen].T, expected.expand(int(seen.sum()), 3), atol=2e-3, rtol=0)
        # the plane comes nearer towards the side that its normal leans away from
        row = sample["depth"][0, 12][seen[12]]
        assert (row[-1] > row[0]) == mirrored[-1] ^ (NORMAL[0] > 0)
    assert 0 < sum(mirrored) < 12


def test_a_plain_position_is_not_augmented() -> None:
    plain, pairs = FramePairs([random_frame(0)], 3), FramePairs([random_frame(0)], 3, augmentation=PairedAugmentation())
    assert same(pairs[0], plain[0])
    assert not same(pairs[SeededIndex(0, 1)], plain[0])
    assert same(plain[SeededIndex(0, 1)], plain[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"depth": np.zeros((24, 47), np.float32)},
            "frame 1 has an image of 24 x 48, a depth of 24 x 47 and a target of 24 x 48 pixels, which must have one",
        ),
        (
            {"target": np.full((24, 48), 3, np.uint8)},
            "frame 1 has the label 3, but labels are 0 to 2, or 255 where ignored",
        ),
    ],
)
def test_a_frame_that_does_not_fit_is_named(change: dict[str, NDArray[Any]], message: str) -> None:
    pairs = FramePairs([random_frame(0), random_frame(1)._replace(**change)], 3)  # type: ignore[arg-type]
    pairs[0]
    with pytest.raises(ValueError, match=message):
        pairs[1]


def test_frames_of_other_sizes_need_a_size_to_share_a_batch() -> None:
    frames = [random_frame(0), random_frame(1), random_frame(2, 12, 20)]
    with pytest.raises(
        ValueError, match="frame 0 has 24 x 48 pixels, but frame 2 of the same batch 12 x 20: give the size"
    ):
        FramePairs(frames, 3).__getitems__([0, 1, 2])
    assert FramePairs(frames, 3, size=(12, 20)).__getitems__([0, 1, 2])["image"].shape == (3, 3, 12, 20)
    assert [len(batch["index"]) for batch in DataLoader(FramePairs(frames, 3), collate_fn=collate)] == [1, 1, 1]


def test_batches_hold_the_modalities_asked_for() -> None:
    module = ready(geometry=["hha", "depth"], size=(12, 20), batch_size=5)
    assert module.modalities == ("image", "hha", "depth")
    assert module.num_classes == 3
    loaders = {12: module.train_dataloader(), 3: module.val_dataloader()}
    for count, loader in loaders.items():
        batches = list(loader)
        assert list(batches[0]) == ["image", "hha", "depth", "target", "index"]
        assert batches[0]["hha"].shape == (min(5, count), 3, 12, 20)
        assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(count))


def test_only_training_batches_are_augmented() -> None:
    module, plain = ready(augmentation=PairedAugmentation()), ready()
    splits = zip(module.splits, plain.splits, strict=True)
    loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    for loader, (_, expected) in zip(loaders, splits, strict=True):
        for batch in loader:
            for row, index in enumerate(batch["index"].tolist()):
                unchanged = torch.equal(batch["depth"][row], expected[index]["depth"])
                assert unchanged == (loader is not loaders[0])
    assert isinstance(loaders[1].sampler, SequentialSampler)
    assert isinstance(loaders[2].sampler, SequentialSampler)


def test_a_loader_rebuilt_without_the_sampler_gives_frames_as_they_are() -> None:
    loader = ready(augmentation=PairedAugmentation()).train_dataloader()
    rebuilt: DataLoader[Batch] = DataLoader(loader.dataset, batch_size=2, collate_fn=loader.collate_fn)
    plain = ready(batch_size=2).splits.train
    assert same(next(iter(rebuilt)), {name: torch.stack([plain[0][name], plain[1][name]]) for name in plain[0]})


def test_the_training_order_follows_seed_everything() -> None:
    loader = ready(augmentation=PairedAugmentation()).train_dataloader()
    loops = []
    for _ in range(2):
        seed_everything(5, verbose=False)
        loops.append([batch for _ in range(2) for batch in loader])
    assert all(same(one, two) for one, two in zip(*loops, strict=True))
    assert not same(loops[0][0], loops[0][3])


class Named(list[Frame]):
    """Frames ``a/0``, ``a/1`` and so on."""

    @property
    def names(self) -> list[str]:
        return [f"a/{position}" for position in range(len(self))]


class NamedToy(Toy):
    """The frames of :class:`Toy`, with those of all splits named alike."""

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        train, val, test = (Named(part) for part in super().make_frames())  # type: ignore[call-overload]
        return train, val, test


def write_response(folder: Path, name: str, depth: NDArray[Any]) -> None:
    path = folder / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, depth=depth)


def test_depth_as_target_is_in_metres_and_not_limited() -> None:
    frame = random_frame(0)
    frame.depth[0, :3] = [0, 79, 655.35]
    for number in (None, 3):
        sample = FramePairs([frame], number, max_depth=50.0)[0]
        assert list(sample) == ["image", "depth", "target", "index"]
        assert sample["target"].shape == ((1, 24, 48) if number is None else (24, 48))
    target = FramePairs([frame], None, ())[0]["target"]
    assert target.dtype == torch.float32
    assert np.array_equal(target[0].numpy(), frame.depth)
    module = ready(target="depth")
    assert module.num_classes is None
    assert next(iter(module.train_dataloader()))["target"].shape == (4, 1, 24, 48)


def test_depth_as_target_moves_with_the_geometry_by_resizing_and_augmentation() -> None:
    frame = random_frame(0)
    frame.depth[::2, ::3] = 0
    pairs = FramePairs([frame], None, size=(31, 40), max_depth=100, augmentation=PairedAugmentation(rotation=5))
    for index in (0, SeededIndex(0, 1), SeededIndex(0, 2)):
        sample = pairs[index]
        torch.testing.assert_close(sample["target"] / 100, sample["depth"])
        assert np.isin(sample["target"], frame.depth).all()
    assert not torch.equal(pairs[SeededIndex(0, 1)]["target"], pairs[0]["target"])


def test_labels_are_not_looked_at_where_depth_is_the_target() -> None:
    frame = random_frame(0)._replace(target=np.full((24, 48), 200, np.uint8))
    assert FramePairs([frame], None)[0]["target"].shape == (1, 24, 48)


def test_a_fixed_crop_keeps_the_lowest_rows_and_the_middle_columns_with_their_geometry() -> None:
    frame = plane_frame(30, 51)
    sample = FramePairs([frame], 3, ALL, crop=(24, 48))[0]
    assert np.array_equal(sample["target"].numpy(), frame.target[6:, 1:49])
    torch.testing.assert_close(80 * sample["depth"][0], torch.from_numpy(frame.depth[6:, 1:49]))
    # its rays are still those of its pixels
    expected = torch.from_numpy(NORMAL).float()[:, None, None].expand(3, 24, 48)
    torch.testing.assert_close(sample["normal"], expected, atol=2e-3, rtol=0)


def test_responses_of_all_sizes_on_the_way_come_with_their_frame(tmp_path: Path) -> None:
    frames = Named([random_frame(0, 30, 51)])
    rows, columns = np.mgrid[:30, :51]
    whole = (1 + columns + 100 * rows).astype(np.float32)
    cropped = whole[6:, 1:49]
    resized = cropped[1::3, 1::3]
    for depth in (whole, cropped, resized, cropped.astype(np.float16)):
        write_response(tmp_path, "a/0", depth)
        pairs = FramePairs(frames, 3, crop=(24, 48), size=(8, 16), responses=StoredResponses(tmp_path))
        response = pairs[0]["teacher_prediction"]
        assert response.shape == (1, 8, 16)
        assert response.dtype == torch.float32
        np.testing.assert_allclose(response[0].numpy(), resized, rtol=1e-3)


def test_responses_are_augmented_with_their_frame(tmp_path: Path) -> None:
    frame = random_frame(0)
    write_response(tmp_path, "a/0", frame.depth / 2)
    augmentation = PairedAugmentation(rotation=3, crop=(20, 30))
    pairs = FramePairs(Named([frame]), None, augmentation=augmentation, responses=StoredResponses(tmp_path))
    for seed in range(4):
        sample = pairs[SeededIndex(0, seed)]
        assert list(sample) == ["image", "depth", "teacher_prediction", "target", "index"]
        assert sample["teacher_prediction"].shape == (1, 20, 30)
        assert torch.equal(2 * sample["teacher_prediction"], sample["target"])


def test_setup_asks_for_the_responses_that_the_stage_needs(tmp_path: Path) -> None:
    for position in range(3):
        write_response(tmp_path, f"a/{position}", np.ones((24, 48), np.float32))
    for stage in ("validate", "test", "predict"):
        NamedToy(responses=tmp_path).setup(stage)
    for incomplete in ("fit", None):
        with pytest.raises(
            FileNotFoundError, match=rf"^{tmp_path} holds no response for 9 of 12 frames, the first is a/3"
        ):
            NamedToy(responses=tmp_path).setup(incomplete)
    with pytest.raises(ValueError, match="the frames have no names to find responses by"):
        Toy(responses=tmp_path).setup()
    with pytest.raises(FileNotFoundError, match="responses nowhere is not a folder"):
        NamedToy(responses="nowhere").setup()


def test_splits_to_evaluate_on_may_have_no_responses_at_all_but_not_a_few(tmp_path: Path) -> None:
    def pairs() -> FramePairs:
        return FramePairs(Named(map(random_frame, range(2))), None, responses=StoredResponses(tmp_path))

    without = pairs()
    without.check_responses(required=False)
    assert "teacher_prediction" not in without[0]
    with pytest.raises(FileNotFoundError, match="no response for 2 of 2 frames"):
        pairs().check_responses(required=True)
    write_response(tmp_path, "a/0", np.ones((24, 48), np.float32))
    with pytest.raises(FileNotFoundError, match="no response for 1 of 2 frames"):
        pairs().check_responses(required=False)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_predict_sees_a_split_in_order_and_not_augmented(split: Any) -> None:
    module, plain = ready(predict_on=split, augmentation=PairedAugmentation(), batch_size=5), ready()
    batches = list(module.predict_dataloader())
    expected = getattr(plain.splits, split)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(len(expected)))
    for batch in batches:
        for row, position in enumerate(batch["index"].tolist()):
            assert torch.equal(batch["image"][row], expected[position]["image"])


class Recorder(LightningModule):
    """Keeps what it sees, and a random number of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], float, float]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        total = float(batch["image"].double().sum() + batch["depth"].double().sum() + batch["target"].sum())
        self.seen.append((self.current_epoch, batch["index"].tolist(), total, float(torch.rand(()))))
        return self.weight * 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fitted(folder: Path, *, epochs: int, num_workers: int, checkpoint: Path | None = None) -> Recorder:
    module = Recorder()
    seed_everything(3, verbose=False)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[ModelCheckpoint(folder, save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = Toy(augmentation=PairedAugmentation(), batch_size=5, num_workers=num_workers)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return module


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_training_sees_the_same_pairs_with_workers_and_when_resumed(tmp_path: Path) -> None:
    alone = fitted(tmp_path / "alone", epochs=3, num_workers=0).seen
    assert len({index for _, indices, *_ in alone[:3] for index in indices}) == 12
    assert len({total for _, _, total, _ in alone}) == 9
    # the random numbers of the steps show that workers leave the global state alone
    assert fitted(tmp_path / "helped", epochs=3, num_workers=2).seen == alone
    for num_workers in (0, 2):
        folder = tmp_path / f"stopped_{num_workers}"
        fitted(folder, epochs=1, num_workers=num_workers)
        resumed = fitted(folder, epochs=3, num_workers=num_workers, checkpoint=folder / "last.ckpt").seen
        assert [step[:3] for step in resumed] == [step[:3] for step in alone[3:]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "dept"}, "target must be one of classes, depth, got 'dept'"),
        ({"geometry": ["depht"]}, "geometry must be one of depth, disparity, normal, hha, got 'depht'"),
        ({"size": (0, 20)}, "height must be at least 1, got 0"),
        ({"max_depth": 0.0}, r"max_depth must be positive, got 0\.0"),
        ({"max_depth": float("inf")}, "max_depth must be finite, got inf"),
        ({"seed": -1}, r"seed must lie in \[0, 4294967295\], got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Toy(**arguments)


def test_frames_are_fixed_unless_they_are_augmented() -> None:
    assert Toy(geometry=("depth", "hha")).fixed_modalities == ("image", "depth", "hha")
    assert Toy(augmentation=PairedAugmentation()).fixed_modalities == ()
