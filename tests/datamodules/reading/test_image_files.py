from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from datamodules.reading.image_files import (
    read_color,
    read_float_map,
    read_header,
    read_labels,
    read_uint16,
)
from tests.datamodules.trees import save

EVERY_UINT16 = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
COLORS = np.random.default_rng(0).integers(0, 256, (12, 40, 3), dtype=np.uint8)
READERS: dict[Callable[[Path], NDArray[np.generic]], NDArray[np.generic]] = {
    read_color: COLORS,
    read_labels: COLORS[..., 0],
    read_uint16: COLORS[..., 0].astype(np.uint16) * 257,
}
every_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)


def test_all_16_bit_values_of_another_writer_are_read_without_loss(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), EVERY_UINT16)
    pixels = read_uint16(tmp_path / "a.png")
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, EVERY_UINT16)


def test_16_bit_values_survive_pillow_before_10_3_which_reads_them_as_integers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", EVERY_UINT16)
    monkeypatch.setitem(PngImagePlugin._MODES, (16, 0), ("I", "I;16B"))
    with Image.open(path) as image:
        assert image.mode == "I"
    assert np.array_equal(read_uint16(path), EVERY_UINT16)


def test_colours_are_red_green_blue_and_labels_are_bytes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "color.png"), COLORS[..., ::-1])
    cv2.imwrite(str(tmp_path / "labels.png"), COLORS[..., 0])
    assert np.array_equal(read_color(tmp_path / "color.png"), COLORS)
    assert np.array_equal(read_labels(tmp_path / "labels.png"), COLORS[..., 0])


def test_a_palette_image_gives_its_colours_or_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == [[0, 1], [2, 1]]
    assert read_color(tmp_path / "a.png")[1].tolist() == [[70, 80, 90], [40, 50, 60]]


@every_reader
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_one_clear_error(
    tmp_path: Path, reader: Callable[[Path], NDArray[np.generic]], share: float
) -> None:
    path = save(tmp_path / "a.png", READERS[reader])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"^{path} cannot be read") as error:
        reader(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reader", "written_for", "mode", "kind"),
    [
        (read_color, read_labels, "L", "colour"),
        (read_color, read_uint16, "I;16", "colour"),
        (read_labels, read_color, "RGB", "8-bit single-channel"),
        (read_labels, read_uint16, "I;16", "8-bit single-channel"),
        (read_uint16, read_labels, "L", "16-bit single-channel"),
        (read_uint16, read_color, "RGB", "16-bit single-channel"),
    ],
)
def test_pixels_of_another_kind_are_refused(
    tmp_path: Path,
    reader: Callable[[Path], NDArray[np.generic]],
    written_for: Callable[[Path], NDArray[np.generic]],
    mode: str,
    kind: str,
) -> None:
    path = save(tmp_path / "a.png", READERS[written_for])
    with pytest.raises(ValueError, match=rf"^{path} cannot be read \(its pixels are of mode {mode}.*, not {kind}\)$"):
        reader(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_maps_are_read_as_float32(tmp_path: Path, dtype: type[np.floating]) -> None:
    np.save(tmp_path / "a.npy", np.array([[0.5, 1.25, np.nan]], dtype))
    array = read_float_map(tmp_path / "a.npy")
    assert array.dtype == np.float32
    assert np.array_equal(array, [[0.5, 1.25, np.nan]], equal_nan=True)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3), np.uint16), r"should hold floats \(H, W\) and holds uint16 \(2, 3\)"),
        (np.ones((1, 2, 3)), r"should hold floats \(H, W\) and holds float64 \(1, 2, 3\)"),
        (np.array([[print]], object), "cannot be read"),
    ],
)
@pytest.mark.parametrize("reader", [read_float_map, read_header])
def test_an_array_that_is_no_float_map_is_refused(
    tmp_path: Path, reader: Callable[[Path], object], array: NDArray[np.generic], message: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'a.npy'} {message}"):
        reader(tmp_path / "a.npy")


@pytest.mark.parametrize("keep", [0, 20, 130])
def test_an_array_that_is_cut_off_is_one_clear_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones((5, 5)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"^{path} cannot be read"):
        read_float_map(path)


def test_size_is_height_then_width_and_needs_the_header_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", COLORS)
    save(tmp_path / "a.jpg", COLORS)
    np.save(tmp_path / "a.npy", np.ones((12, 40), np.float32))
    path.write_bytes(path.read_bytes()[:60])
    assert [read_header(tmp_path / name)[:2] for name in ("a.png", "a.jpg", "a.npy")] == [(12, 40)] * 3
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(ValueError, match=f"^{path} cannot be read"):
        read_header(path)
