"""Every kind of pixels that a file may have, written by its own library, as all readers give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from datamodules.reading.image_files import read_color, read_header, read_labels, read_pixels, read_uint16
from datamodules.reading.photographs import random_crops
from datamodules.serving.labelled_images import read_rgb

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 2**16, (6, 9), dtype=np.uint16)
DEEP_COLOURS = RNG.integers(0, 2**16, (6, 9, 3), dtype=np.uint16)
SHARES = RNG.random((6, 9), dtype=np.float32)
ALPHA = np.full((6, 9), 128, np.uint8)


def pillow(pixels: NDArray[Any], mode: str | None = None) -> Callable[[Path], object]:
    image = Image.fromarray(pixels)
    return lambda path: (image if mode is None else image.convert(mode)).save(path)


def opencv(pixels: NDArray[Any]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def tiff(pixels: NDArray[Any], **arguments: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, pixels, **arguments)


def big_endian(path: Path) -> None:
    tifffile.imwrite(path, DEEP, byteorder=">")


def repeated(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(pixels[..., None], 3, axis=2)


def in_bytes(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels of 16 bits on the scale of bytes."""
    return repeated(pixels.astype(np.float64) / 257)


PALETTE = Image.fromarray(COLOURS).quantize(16)
CMYK = Image.fromarray(COLOURS).convert("CMYK")
# how a file is written, its suffix, the mode in which Pillow opens it (None: not at all), and the colours that it holds
KINDS: dict[str, tuple[Callable[[Path], object], str, str | None, NDArray[Any]]] = {
    "1": (pillow(GREY, "1"), "png", "1", repeated(np.array(Image.fromarray(GREY).convert("1")) * np.uint8(255))),
    "L": (pillow(GREY), "png", "L", repeated(GREY)),
    "LA": (pillow(np.dstack([GREY, ALPHA])), "png", "LA", repeated(GREY)),
    "P": (PALETTE.save, "png", "P", np.array(PALETTE.convert("RGB"))),
    "RGB": (pillow(COLOURS), "png", "RGB", COLOURS),
    "RGBA": (pillow(np.dstack([COLOURS, ALPHA])), "png", "RGBA", COLOURS),
    "CMYK": (CMYK.save, "tif", "CMYK", COLOURS),
    "I;16": (opencv(DEEP), "png", "I;16", in_bytes(DEEP)),
    "I;16 tiff": (tiff(DEEP), "tif", "I;16", in_bytes(DEEP)),
    "I;16B": (big_endian, "tif", "I;16B", in_bytes(DEEP)),
    "I": (tiff(DEEP.astype(np.int32)), "tif", "I", in_bytes(DEEP)),
    "I unsigned": (tiff(DEEP.astype(np.uint32)), "tif", "I", in_bytes(DEEP)),
    "I pgm": (opencv(DEEP), "pgm", "I", in_bytes(DEEP)),
    "F": (tiff(SHARES), "tif", "F", repeated(SHARES * 255.0)),
    "F 64": (tiff(SHARES.astype(np.float64)), "tif", None, repeated(SHARES * 255.0)),
    "F RGB": (tiff(DEEP_COLOURS / np.float32(65535), photometric="rgb"), "tif", None, DEEP_COLOURS / 257),
    "F compressed": (
        tiff(SHARES, byteorder=">", compression="zlib"),
        *("tif", "F", repeated(SHARES * 255.0)),
    ),
    "I compressed": (
        tiff(DEEP.astype(np.int32), byteorder=">", compression="zlib"),
        *("tif", "I", in_bytes(DEEP)),
    ),
    "RGB;16": (opencv(DEEP_COLOURS[..., ::-1]), "png", "RGB", DEEP_COLOURS / 257),
    "RGBA;16": (opencv(np.dstack([DEEP_COLOURS[..., ::-1], DEEP])), "png", "RGBA", DEEP_COLOURS / 257),
    "RGB;16 tiff": (tiff(DEEP_COLOURS, photometric="rgb"), "tif", "RGB", DEEP_COLOURS / 257),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_image_of_any_kind_has_its_own_colours(tmp_path: Path, name: str) -> None:
    write, suffix, mode, colours = KINDS[name]
    path = tmp_path / f"a.{suffix}"
    write(path)
    if mode is not None:
        with Image.open(path) as image:
            assert image.mode == mode
    pixels = read_pixels(path)
    assert pixels.dtype == (np.uint8 if colours.dtype == np.uint8 else np.float32)
    np.testing.assert_allclose(pixels, colours, rtol=1e-6, atol=1e-4)
    # the readers of image folders and of photographs
    resized = read_rgb(path, 6, lambda width, height: (0, 0, 6, 6))
    np.testing.assert_allclose(resized, colours[:, :6].transpose(2, 0, 1), rtol=1e-6, atol=1e-4)
    if suffix != "png":
        return
    crop = random_crops([path], 1, 6, np.random.default_rng(0))[0]
    assert any(np.abs(crop - colours[:, left : left + 6].transpose(2, 0, 1)).max() <= 0.51 for left in range(4))


def test_a_byte_in_16_bits_is_that_byte_and_16_bits_are_kept(tmp_path: Path) -> None:
    opencv(np.arange(256, dtype=np.uint16)[None] * 257)(tmp_path / "bytes.png")
    assert read_pixels(tmp_path / "bytes.png")[0, :, 0].tolist() == list(range(256))
    opencv(np.arange(2**16, dtype=np.uint16).reshape(256, 256))(tmp_path / "all.png")
    assert len(np.unique(read_pixels(tmp_path / "all.png"))) == 2**16


def test_limits_are_black_and_white_and_values_beyond_are_cut_off(tmp_path: Path) -> None:
    tiff(np.array([[-60, -40, -20, 0, 3]], np.float32))(tmp_path / "decibels.tif")
    assert read_pixels(tmp_path / "decibels.tif", limits=(-40, 0))[0, :, 0].tolist() == [0, 0, 127.5, 255, 255]
    opencv(np.array([[0, 819, 4095]], np.uint16))(tmp_path / "radar.png")
    assert read_pixels(tmp_path / "radar.png", limits=(0, 4095))[0, :, 0].tolist() == [0, 51, 255]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.array([[-40, 3]], np.float32),
            r"holds values from -40 to 3, but floats should lie from 0 \(black\) to 1 \(white\)$",
        ),
        (np.array([[0, np.nan]], np.float32), "holds a value that is not finite$"),
        (np.array([[0, np.inf]], np.float32), "holds a value that is not finite$"),
        (
            np.array([[0, 70000]], np.int32),
            r"holds values from 0 to 70000, but whole numbers should lie from 0 \(black\) to 65535",
        ),
        (np.array([[-3, 9]], np.int16), "holds values from -3 to 9, but whole numbers should lie from 0"),
        (np.array([[1, 2**32 - 1]], np.uint32), r"holds values from 1 to 4\.29497e\+09, but whole numbers"),
        (np.zeros((5, 6, 9), np.uint16), r"cannot be read \(it holds 5 images, and should hold one\)$"),
    ],
)
def test_values_whose_scale_is_not_known_are_one_sentence(tmp_path: Path, pixels: NDArray[Any], message: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack")
    with pytest.raises(ValueError, match=f"^{path} {message}"):
        read_pixels(path)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_deep_images_in_which_0_is_white_and_bytes_with_signs_are_one_sentence(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SHARES.astype(dtype), photometric="miniswhite")
    with pytest.raises(ValueError, match=rf"^{path} cannot be read \(0 is white in it: write it with 0 as black\)$"):
        read_pixels(path)
    tifffile.imwrite(path, GREY.astype(np.int8), photometric="minisblack")
    with pytest.raises(ValueError, match=rf"^{path} cannot be read \(its bytes have signs\)$"):
        read_pixels(path)


def test_a_file_of_five_bands_or_cut_off_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((6, 9, 5), np.uint16), photometric="minisblack", planarconfig="contig")
    with pytest.raises(ValueError, match=rf"^{path} cannot be read \(it is no whole image of 1, 3 or 4 channels\)$"):
        read_pixels(path)
    planes = DEEP_COLOURS.transpose(2, 0, 1)
    for values in (planes, planes / np.float32(65535)):
        tifffile.imwrite(path, values, photometric="rgb", planarconfig="separate")
        with pytest.raises(ValueError, match=rf"^{path} cannot be read \(its channels lie one after the other, .*\)$"):
            read_pixels(path)
    tifffile.imwrite(path, np.zeros((2, 6, 9, 3), np.float32), photometric="rgb")
    with pytest.raises(ValueError, match=rf"^{path} cannot be read \(it holds several images, and should hold one\)$"):
        read_pixels(path)
    for name in ("F RGB", "RGB;16 tiff", "RGB;16"):
        write, suffix, *_ = KINDS[name]
        path = tmp_path / f"b.{suffix}"
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        with pytest.raises(ValueError, match=f"^{path} cannot be read"):
            read_pixels(path)
    assert "OpenCV" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_labels_and_depth_are_upright_and_so_is_their_size(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored: dict[str, NDArray[Any]] = {"colours.png": COLOURS, "labels.png": GREY, "depth.png": DEEP}
    for name, pixels in stored.items():
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    upright = []
    for name in stored:
        with Image.open(tmp_path / name) as image:
            upright.append(np.array(ImageOps.exif_transpose(image)))
    colours, labels, depth = upright
    assert np.array_equal(read_color(tmp_path / "colours.png"), colours)
    assert np.array_equal(read_labels(tmp_path / "labels.png"), labels)
    assert np.array_equal(read_uint16(tmp_path / "depth.png"), depth)
    assert read_header(tmp_path / "colours.png")[:2] == colours.shape[:2]
    # tags of TIFF are applied by the libraries; of a JPEG file, only its colours change
    deep: NDArray[Any] = COLOURS.astype(np.uint16) * 257
    for name, pixels in (("a.tif", COLOURS), ("b.tif", deep)):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        assert np.array_equal(read_pixels(tmp_path / name), colours)
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    assert np.abs(read_pixels(tmp_path / "a.jpg") - colours.astype(float)).max() < 20
    assert read_header(tmp_path / "a.jpg")[:2] == colours.shape[:2]


def test_damaged_exif_data_do_not_matter(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=b"Exif\0\0no such thing")
    assert np.array_equal(read_pixels(tmp_path / "a.png"), COLOURS)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_labels_of_more_bits_are_read_where_their_values_fit_and_do_not_wrap(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.array([[0, 18, 255]], dtype))
    assert read_labels(path).tolist() == [[0, 18, 255]]
    tifffile.imwrite(path, np.array([[0, 18, 256]], dtype))
    with pytest.raises(ValueError, match=rf"^{path} cannot be read \(its pixels are of mode I.* from 0 to 256, not 8"):
        read_labels(path)


def test_depth_beyond_16_bits_does_not_wrap(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for values in ([0, 65536], [-1, 3]):
        tifffile.imwrite(path, np.array([values], np.int32))
        with pytest.raises(ValueError, match=f"from {min(values)} to {max(values)}, not 16-bit single-channel"):
            read_uint16(path)
