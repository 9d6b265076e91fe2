from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from datamodules import MNISTM, TensorPairs
from datamodules.mnistm import NOISE_PER_LEVEL
from datamodules.reading.digits import bundled_digits
from tests.datamodules.reading.test_digits import idx


def splits(noise_level: float = 0.0, **arguments: object) -> list[dict[str, Tensor]]:
    module = MNISTM(noise_level, **arguments)  # type: ignore[arg-type]
    module.setup()
    found = []
    for split in module.splits:
        assert isinstance(split, TensorPairs)
        found.append(split.tensors)
    return found


def by_digit(data: list[dict[str, Tensor]]) -> dict[bytes, tuple[Tensor, Tensor]]:
    """Both modalities of every digit, keyed by the clean digit."""
    return {
        a.numpy().tobytes(): (a, b) for split in data for a, b in zip(split["image_a"], split["image_b"], strict=True)
    }


@pytest.fixture(scope="module")
def clean() -> list[dict[str, Tensor]]:
    return splits()


@pytest.fixture
def plain_photograph(tmp_path: Path) -> Path:
    """A folder with one photograph of a single colour."""
    Image.new("RGB", (100, 80), (200, 100, 30)).save(tmp_path / "plain.png")
    return tmp_path


def test_without_noise_the_teacher_sees_the_digit(clean: list[dict[str, Tensor]]) -> None:
    seen = torch.cat([split["image_a"] for split in clean]).mul(255).round().byte().squeeze(1).numpy()
    assert {digit.tobytes() for digit in seen} == {digit.tobytes() for digit in bundled_digits().images}


def test_labels_stay_with_their_digits(clean: list[dict[str, Tensor]]) -> None:
    label = {digit.tobytes(): int(y) for digit, y in zip(*bundled_digits(), strict=True)}
    for split in clean:
        digits = split["image_a"].mul(255).round().byte().numpy()
        assert [label[digit.tobytes()] for digit in digits] == split["target"].tolist()


def test_the_student_sees_the_difference_of_patch_and_digit(plain_photograph: Path) -> None:
    for split in splits(patches_dir=plain_photograph):
        colour = torch.tensor([200.0, 100.0, 30.0]).view(3, 1, 1)
        expected = (colour - split["image_a"] * 255).abs()
        torch.testing.assert_close(split["image_b"].float(), expected, atol=1e-3, rtol=0)


def test_the_students_images_come_from_minus_one_to_one() -> None:
    module = MNISTM()
    module.setup()
    batch = next(iter(module.test_dataloader()))
    assert -1 <= batch["image_b"].min() < -0.9
    assert 0.9 < batch["image_b"].max() <= 1


def test_backgrounds_are_crops_of_photographs(clean: list[dict[str, Tensor]]) -> None:
    backgrounds = clean[0]["image_b"][:, :, 0]  # the uppermost row, which holds next to no ink
    assert (backgrounds[:, 0] != backgrounds[:, 2]).float().mean() > 0.8
    assert len({background.numpy().tobytes() for background in backgrounds}) > 3400


@pytest.mark.parametrize("level", [1.0, 5.0])
def test_noise_has_the_levels_standard_deviation_and_no_mean(clean: list[dict[str, Tensor]], level: float) -> None:
    for quiet, noisy in zip(clean, splits(level), strict=True):
        noise = noisy["image_a"] - quiet["image_a"]
        assert noise.std().item() == pytest.approx(level * NOISE_PER_LEVEL, rel=0.01)
        assert abs(noise.mean().item()) < 0.01 * level
        # neighbouring pixels and samples have noise of their own
        assert abs((noise[1:] * noise[:-1]).mean() / noise.var()) < 0.01
        assert abs((noise[..., 1:] * noise[..., :-1]).mean() / noise.var()) < 0.01


def test_the_level_scales_the_noise_and_changes_nothing_else(clean: list[dict[str, Tensor]]) -> None:
    for quiet, low, high in zip(clean, splits(1.0), splits(4.0), strict=True):
        torch.testing.assert_close(
            high["image_a"] - quiet["image_a"], 4 * (low["image_a"] - quiet["image_a"]), atol=1e-5, rtol=1e-4
        )
        assert torch.equal(quiet["image_b"], high["image_b"])
        assert torch.equal(quiet["target"], high["target"])


def test_a_digit_keeps_its_background_and_noise_when_the_splits_change(clean: list[dict[str, Tensor]]) -> None:
    first, second = by_digit(clean), by_digit(splits(val_size=37, test_size=2000))
    assert len(first) == len(second) == 5000
    assert all(torch.equal(first[digit][1], second[digit][1]) for digit in first)
    noisy = by_digit(splits(2.0))
    assert noisy.keys() == by_digit(splits(2.0, val_size=37)).keys()


def test_noise_and_background_stay_from_epoch_to_epoch() -> None:
    module = MNISTM(3.0, batch_size=None)
    module.setup()
    loader = module.train_dataloader()
    first, second = next(iter(loader)), next(iter(loader))
    assert not torch.equal(first["index"], second["index"])
    for name in ("image_a", "image_b"):
        assert torch.equal(first[name][first["index"].argsort()], second[name][second["index"].argsort()])


@pytest.mark.parametrize(("val_size", "test_size"), [(500, 1000), (100, 30), (333, 77)])
def test_sizes_are_as_asked_and_stratified(val_size: int, test_size: int) -> None:
    train, val, test = (
        split["target"].bincount(minlength=10) for split in splits(val_size=val_size, test_size=test_size)
    )
    assert [int(counts.sum()) for counts in (train, val, test)] == [5000 - val_size - test_size, val_size, test_size]
    for counts in (train, val, test):
        assert counts.max() - counts.min() <= 2


def test_splits_that_leave_no_training_digit_are_refused() -> None:
    with pytest.raises(
        ValueError, match="val_size 4000 and test_size 1000 must be less than the 5000 images there are"
    ):
        MNISTM(val_size=4000).setup()
    MNISTM(val_size=3999).setup()


@pytest.mark.parametrize("level", [-0.5, float("nan"), float("inf")])
def test_an_impossible_noise_level_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=f"noise_level must be (at least 0|finite), got {level}"):
        MNISTM(level)


def write_mnist(folder: Path, prefix: str, count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = rng.permutation(np.arange(count, dtype=np.uint8) % 10)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return images, labels


def test_original_files_keep_their_test_set_and_give_validation_from_training(tmp_path: Path) -> None:
    train_images, _ = write_mnist(tmp_path, "train", 60, seed=0)
    test_images, test_labels = write_mnist(tmp_path, "t10k", 20, seed=1)
    train, val, test = splits(data_dir=tmp_path, val_size=10)
    seen = [split["image_a"].mul(255).round().byte().squeeze(1).numpy() for split in (train, val, test)]
    assert np.array_equal(seen[2], test_images)
    assert test["target"].tolist() == test_labels.tolist()
    assert len(seen[1]) == 10
    assert val["target"].sort().values.tolist() == list(range(10))
    together = {image.tobytes() for image in (*seen[0], *seen[1])}
    assert together == {image.tobytes() for image in train_images}


def test_a_folder_given_as_text_serves_as_well(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 30, seed=0)
    write_mnist(tmp_path, "t10k", 10, seed=1)
    assert [len(split["target"]) for split in splits(data_dir=str(tmp_path), val_size=5)] == [25, 5, 10]


def test_sizes_that_do_not_fit_the_original_files_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 60, seed=0)
    write_mnist(tmp_path, "t10k", 20, seed=1)
    with pytest.raises(ValueError, match="val_size 5000 must be less than the 60 images there are"):
        splits(data_dir=tmp_path)
    with pytest.raises(ValueError, match="test_size 10 cannot be chosen with data_dir"):
        MNISTM(data_dir=tmp_path, test_size=10)


def test_damaged_files_stop_setup(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 60, seed=0)
    with pytest.raises(FileNotFoundError, match="nor its MNIST/raw holds t10k-images-idx3-ubyte"):
        MNISTM(data_dir=tmp_path, val_size=5).setup()


def test_unusable_photographs_stop_setup(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no photographs"):
        MNISTM(patches_dir=tmp_path).setup()
    Image.new("RGB", (20, 20)).save(tmp_path / "stamp.jpg")
    with pytest.raises(ValueError, match=r"stamp\.jpg is 20 x 20 pixels"):
        MNISTM(patches_dir=tmp_path).setup()


def accuracy(noise_level: float, modality: str) -> float:
    """Percent right of a 512-256 network after 15 epochs of Adam, on the test split."""
    torch.manual_seed(0)
    data = MNISTM(noise_level)
    data.setup()
    features = data.splits.train[0][modality].numel()
    hidden = [nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()]
    network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(15):
        for batch in data.train_dataloader():
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(network(batch[modality]), batch["target"]))
            optimizer.step()
    right = [network(batch[modality]).argmax(1) == batch["target"] for batch in data.test_dataloader()]
    return float(100 * torch.cat(right).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize(("level", "paper"), [(0, 92.98), (1, 81.10), (2, 70.42), (3, 62.58), (4, 46.37), (5, 38.85)])
def test_noise_takes_a_teacher_down_as_in_the_paper(level: float, paper: float) -> None:
    assert accuracy(level, "image_a") == pytest.approx(paper, abs=6)


@pytest.mark.slow
def test_an_undistilled_student_is_as_good_as_in_the_paper() -> None:
    assert accuracy(0, "image_b") == pytest.approx(75.4, abs=4)
