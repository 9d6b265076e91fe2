from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules.augmentation import PairedAugmentation
from datamodules.reading.frame import Camera
from datamodules.reading.frame_files import FileFrames, FrameFiles, read_scaled_depth
from datamodules.serving.frame_pairs import FramePairs
from datamodules.serving.sampling import SeededIndex
from tests.datamodules.trees import save

CAMERA = Camera(fx=700.0, fy=710.0, cx=20.0, cy=6.0, baseline=0.5, height=1.6)


def read_nothing(*arguments: object) -> NoReturn:
    raise AssertionError("pixels were read")


def write_frame(folder: Path) -> FrameFiles:
    image, target, depth = (folder / f"{name}.png" for name in ("image", "target", "depth"))
    save(image, np.zeros((12, 40, 3), np.uint8))
    save(target, np.zeros((12, 40), np.uint8))
    save(depth, np.zeros((12, 40), np.uint16))
    return FrameFiles(image, target, depth, CAMERA)


def test_frames_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    frames = FileFrames([write_frame(tmp_path)] * 3, tmp_path, read_nothing, read_nothing)
    assert len(frames) == 3
    with pytest.raises(AssertionError, match="pixels were read"):
        frames[0]


@pytest.mark.parametrize("wrong", ["target", "depth"])
def test_files_of_another_size_are_refused_before_they_are_read(tmp_path: Path, wrong: str) -> None:
    files = [write_frame(tmp_path / name) for name in ("first", "second")]
    path = save(getattr(files[1], wrong), np.zeros((40, 12), np.uint8))
    with pytest.raises(ValueError, match=rf"^{path} is 12 x 40 pixels, its image {files[1].image} is 40 x 12$"):
        FileFrames(files, tmp_path, read_nothing, read_nothing)


def test_a_damaged_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    files = write_frame(tmp_path)
    assert files.depth is not None
    files.depth.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"^{files.depth} cannot be read"):
        FileFrames([files], tmp_path, read_nothing, read_nothing)


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_exif_tag_of_the_image_alone_is_refused_where_it_leaves_the_labels_behind(
    tmp_path: Path, orientation: int
) -> None:
    files = write_frame(tmp_path)
    turned(files.image, orientation)
    message = {
        3: f"an EXIF tag turns or reflects {files.image}, but not {files.target}: write the pixels upright, and remove",
        6: f"{files.target} is 40 x 12 pixels, its image {files.image} is 12 x 40$",
    }[orientation]
    with pytest.raises(ValueError, match=f"^{message}"):
        FileFrames([files], tmp_path, read_nothing, read_nothing)
    for path in (files.target, files.depth):
        assert path is not None
        turned(path, orientation)
    assert FileFrames([files], tmp_path, read_nothing, read_nothing).sizes == [{3: (12, 40), 6: (40, 12)}[orientation]]


def test_an_image_of_16_bits_keeps_its_values_through_augmentation_and_batch(tmp_path: Path) -> None:
    files = write_frame(tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, (12, 40, 3), dtype=np.uint8)

    def batch(pixels: NDArray[Any], **arguments: Any) -> Any:
        cv2.imwrite(str(files.image), pixels[..., ::-1])
        frames = FileFrames([files], tmp_path, None, partial(read_scaled_depth, units_per_metre=1))
        augmentation = PairedAugmentation(rotation=10, scale=(0.7, 1.3))
        pairs = FramePairs(frames, None, augmentation=augmentation, **arguments)
        return [pairs[index]["image"] for index in (0, SeededIndex(0, 1), SeededIndex(0, 2))]

    deep = colours.astype(np.uint16) * 257
    for eight, sixteen in zip(batch(colours), batch(deep), strict=True):
        # each change of colours rounds bytes; a byte is 1 / 57 in the normalised image
        assert (eight - sixteen).abs().mean() < 0.03
    torch.testing.assert_close(batch(colours)[0], batch(deep)[0])
    assert len(batch(deep // 300 + 7)[0].unique()) > 2 * len(batch((deep // 300 + 7) // 257)[0].unique())
    for eight, sixteen in zip(batch(colours, size=(6, 20)), batch(deep, size=(6, 20)), strict=True):
        assert (eight - sixteen).abs().mean() < 0.03
