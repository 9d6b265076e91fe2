from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

from datamodules import Batch, RadarOptical
from datamodules.radar_optical import CLASS_NAMES, ImagePairs, find_pairs
from datamodules.serving.sampling import SeededIndex
from tests.datamodules.image_trees import write_radar_optical


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five pairs a class, 12 x 12 pixels."""
    return write_radar_optical(tmp_path / "ships")


def ready(root: Path | str, **arguments: Any) -> RadarOptical:
    module = RadarOptical(root, **{"size": 12, **arguments})
    module.setup()
    return module


def samples(split: Any) -> Batch:
    """A split as it is, in order."""
    batch: Batch = split.__getitems__(range(len(split)))
    return batch


def as_bytes(images: Tensor) -> Tensor:
    return (images + 1).mul(127.5).round().byte()


def on_disk(root: Path, modality: str) -> dict[bytes, tuple[int, str]]:
    """Class and name of every image by its pixels, as Pillow reads them."""
    return {
        np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes(): (CLASS_NAMES.index(path.parent.name), path.stem)
        for path in (root / modality).rglob("*.*")
    }


def test_both_images_of_a_batch_have_its_class_and_one_name(root: Path) -> None:
    optical, radar = on_disk(root, "optical"), on_disk(root, "radar")
    seen = []
    for split in ready(str(root)).splits:
        batch = samples(split)
        assert batch["index"].tolist() == list(range(len(batch["target"])))
        for one, two, target in zip(
            as_bytes(batch["optical"]), as_bytes(batch["radar"]), batch["target"].tolist(), strict=True
        ):
            key = optical[one.numpy().tobytes()]
            assert radar[two.numpy().tobytes()] == key
            assert key[0] == target
            seen.append(key)
    assert sorted(seen) == sorted(optical.values())


def test_the_seed_splits_the_classes_in_their_shares(root: Path) -> None:
    splits = [samples(split) for split in ready(root, val_size=8, test_size=16).splits]
    assert [split["target"].bincount().tolist() for split in splits] == [[2] * 8, [1] * 8, [2] * 8]
    again = [samples(split) for split in ready(root, val_size=8, test_size=16).splits]
    other = [samples(split) for split in ready(root, val_size=8, test_size=16, seed=1).splits]
    assert all(torch.equal(one["radar"], two["radar"]) for one, two in zip(splits, again, strict=True))
    assert not any(torch.equal(one["radar"], two["radar"]) for one, two in zip(splits, other, strict=True))


def test_a_test_folder_is_the_test_split(tmp_path: Path) -> None:
    write_radar_optical(tmp_path / "train", count=3)
    write_radar_optical(tmp_path / "test", count=2)
    module = ready(tmp_path)
    assert [len(split) for split in module.splits] == [22, 2, 16]  # type: ignore[arg-type]
    test = samples(module.splits.test)
    assert test["target"].tolist() == [label for label in range(8) for _ in range(2)]
    with pytest.raises(ValueError, match="test_size 5 cannot be chosen where the data have a test set of their own"):
        ready(tmp_path, test_size=5)


def test_class_folders_may_be_spelled_as_in_the_papers_figure(root: Path) -> None:
    expected = [label for label, *_ in find_pairs(root)]
    spelled = ("Cargo", "Fishing", "sailing_vessel", "PleasureVessel", "hsc", "LawVessel", "ocean-buoy", "Helicopter")
    for modality in ("optical", "radar"):
        for name, spelling in zip(CLASS_NAMES, spelled, strict=True):
            (root / modality / name).rename(root / modality / spelling)
    assert [label for label, *_ in find_pairs(root)] == expected


def test_images_are_resized(root: Path) -> None:
    batch = ready(root, size=6).splits.test[0]
    assert batch["optical"].shape == batch["radar"].shape == (3, 6, 6)


def test_training_mirrors_both_images_of_every_other_pair(root: Path) -> None:
    module = ready(root)
    split: Any = module.splits.train
    plain = split[3]
    batch = split.__getitems__([SeededIndex(3, seed) for seed in range(200)])
    mirrored = []
    for one, two in zip(batch["optical"], batch["radar"], strict=True):
        flip = not torch.equal(one, plain["optical"])
        mirrored.append(flip)
        assert torch.equal(one, plain["optical"].flip(2) if flip else plain["optical"])
        assert torch.equal(two, plain["radar"].flip(2) if flip else plain["radar"])
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.15)
    first, second = (next(iter(module.train_dataloader())) for _ in range(2))
    assert not torch.equal(first["radar"][first["index"].argsort()], second["radar"][second["index"].argsort()])


def test_images_without_a_partner_are_named(root: Path) -> None:
    for number in range(5):
        (root / "radar" / "cargo" / f"{number:04d}.png").unlink()
    shutil.copy(root / "radar" / "HSC" / "0000.png", root / "radar" / "cargo" / "x.png")
    (root / "optical" / "HSC" / "0002.jpg").unlink()
    names = [f"optical/cargo/000{number}.jpg" for number in range(3)]
    message = (
        f"{root} lacks the radar images to 5 of 39, {', '.join(names)} and so on, and the optical images to 2 of 36, "
        "radar/cargo/x.png, radar/HSC/0002.png"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        ready(root)


def test_wrong_trees_are_told_what_is_wrong(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no folder optical: root, or its folders train and test, must"):
        ready(tmp_path)
    (root / "radar" / "0001").mkdir()
    with pytest.raises(ValueError, match=r"the folder .*/radar/0001 is none of the classes cargo, fishing vessel"):
        ready(root)
    (root / "radar" / "0001").rmdir()
    shutil.copy(root / "radar" / "cargo" / "0000.png", root / "radar" / "cargo" / "0000.bmp")
    with pytest.raises(ValueError, match=r"0000\.png and .*0000\.bmp are two images of one name"):
        ready(root)
    shutil.rmtree(root / "radar" / "cargo")
    with pytest.raises(FileNotFoundError, match="radar holds no images of the class cargo"):
        ready(root)


def test_a_damaged_image_is_named(root: Path) -> None:
    path = root / "radar" / "cargo" / "0000.png"
    path.write_bytes(path.read_bytes()[:60])
    pairs = ImagePairs(find_pairs(root), size=12)
    assert len(pairs) == 40
    with pytest.raises(ValueError, match=r"radar/cargo/0000\.png cannot be read"):
        samples(pairs)


def test_radar_images_of_16_bits_and_of_floats_keep_their_values(root: Path) -> None:
    rng = np.random.default_rng(0)
    channels = rng.integers(0, 2**16, (12, 12, 3), dtype=np.uint16)
    decibels = rng.uniform(-50, 0, (12, 12)).astype(np.float32)
    cv2.imwrite(str(root / "radar" / "cargo" / "0000.png"), channels[..., ::-1])
    (root / "radar" / "cargo" / "0001.png").unlink()
    tifffile.imwrite(root / "radar" / "cargo" / "0001.tif", decibels)
    grey = channels[..., :1].repeat(3, 2)
    Image.fromarray(grey[..., 0]).save(root / "radar" / "cargo" / "0002.png")

    pairs = ImagePairs(find_pairs(root), size=12)
    for at, values in ((0, channels), (2, grey)):
        expected = torch.from_numpy(values.transpose(2, 0, 1) / 32767.5 - 1).float()
        torch.testing.assert_close(pairs[at]["radar"], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(pairs.__getitems__([0, 3])["radar"][1], pairs[3]["radar"])  # bytes, in one batch
    with pytest.raises(ValueError, match=r"0001\.tif holds values from .* should lie from 0 \(black\) to 1 \(white\)$"):
        pairs[1]

    limited = ImagePairs(find_pairs(root), 12, ready(root, radar_limits=(-40, 0)).radar_limits)
    expected = torch.from_numpy(decibels.clip(-40, 0) / 20 + 1)[None].expand(3, -1, -1)
    torch.testing.assert_close(limited[1]["radar"], expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"radar_limits must be two values, the smaller one first, got 0 and -40"):
        ready(root, radar_limits=(0, -40))


def test_an_optical_image_is_turned_as_its_exif_tag_says(root: Path) -> None:
    path = root / "optical" / "cargo" / "0000.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        upright = image.transpose(Image.Transpose.ROTATE_270)
        image.save(root / "optical" / "cargo" / "0000.png", exif=exif)
    path.unlink()
    pairs = ImagePairs(find_pairs(root), size=12)
    assert np.array_equal(as_bytes(pairs[0]["optical"]).permute(1, 2, 0), np.asarray(upright))


def test_what_other_programs_leave_is_no_image_and_no_class(root: Path) -> None:
    pairs = find_pairs(root)
    for folder in (root / "radar", root / "radar" / "cargo"):
        for name in ("__MACOSX", ".ipynb_checkpoints"):
            (folder / name).mkdir()
            shutil.copy(root / "radar" / "cargo" / "0000.png", folder / name / "9.png")
        for name in ("._0000.png", "Thumbs.db", ".DS_Store"):
            (folder / name).touch()
    assert find_pairs(root) == pairs


def test_arguments_out_of_range_are_refused(root: Path) -> None:
    for argument in ("size", "val_size", "test_size"):
        with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
            ready(root, **{argument: 0})
