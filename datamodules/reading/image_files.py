"""Reads images and maps; every error names the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from datamodules.reading.arrays import Floats, Pixels
from distill.errors import UserError

Kind = Literal["colour", "8-bit single-channel", "16-bit single-channel"]

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of more than 8 bits, all of one channel; ``convert("RGB")`` would cut off their values at 255.

Before version 10.3, Pillow read 16-bit PNG files as 32-bit integers, "I", with the same values.
"""

# labels may have 16 bits, if their values fit into 8
_MODES: dict[Kind, tuple[str, ...]] = {
    "colour": ("RGB", "RGBA", "P"),
    "8-bit single-channel": ("L", "P", *_DEEP[:-1]),
    "16-bit single-channel": _DEEP[:-1],
}

# numbers of EXIF's and TIFF's tags, and some of their values
_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _CHANNELS, _PLANES, _SAMPLE_FORMAT = 258, 262, 277, 284, 339
_SIGNED = 2
_KEEPS_SIZE = (2, 3, 4)
_PNG_EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}
_TIFF = (".tif", ".tiff")

# Pillow's errors about damaged data
_DAMAGE = (OSError, ValueError, SyntaxError, KeyError, TypeError, EOFError, struct.error)


class UnreadableError(UserError):
    """A file is damaged or holds something else."""


class Header(NamedTuple):
    """Height and width in pixels of an upright image, and whether an EXIF tag made it upright without changing them."""

    height: int
    width: int
    turned: bool = False


def read_header(path: Path) -> Header:
    """The size of an image or a ``.npy`` map; only the header is read.

    Raises:
        ValueError: The file cannot be read, or its array is no map.
    """
    if path.suffix == ".npy":
        return Header(*_open_map(path).shape)
    with open_image(path) as image:
        orientation = _orientation(image)
        size = (image.width, image.height) if orientation > max(_KEEPS_SIZE) else (image.height, image.width)
        return Header(*size, turned=orientation in _KEEPS_SIZE)


def read_pixels(path: Path, limits: tuple[float, float] | None = None, kind: Kind | None = None) -> Pixels:
    """Reads an image of any kind as RGB, ``(H, W, 3)``, on the scale of bytes: 0 is black and 255 is white.

    Images of up to 8 bits are ``uint8``, deeper images ``float32``, with all their values. Transparency is left out. An
    EXIF tag of a rotation or reflection is applied.

    Args:
        path: The file.
        limits: The values that become black and white in a deeper image; values beyond are cut off. ``None`` takes 0
            and 65535 for whole numbers, 0 and 1 for others, and refuses values beyond.
        kind: The kind of pixels that the file must have; ``None`` allows all.

    Raises:
        ValueError: The file is damaged, is of another kind or has several pages, or its values do not lie between the
            limits.
    """
    pixels = read_image(path, limits, kind)
    return np.array(pixels) if isinstance(pixels, Image.Image) else pixels


def read_image(path: Path, limits: tuple[float, float] | None = None, kind: Kind | None = None) -> Image.Image | Floats:
    """As :func:`read_pixels`, but bytes stay in an image of Pillow, which can resize them without a copy."""
    stored = _stored(path, kind)
    if isinstance(stored, Image.Image):
        return stored
    values = stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=2)
    return Image.fromarray(values) if values.dtype == np.uint8 else _on_byte_scale(values, limits, path)


def read_color(path: Path) -> Pixels:
    """Reads a colour image, as :func:`read_pixels` does.

    Raises:
        ValueError: The file is damaged or has no colours.
    """
    return read_pixels(path, kind="colour")


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Reads an image of one channel whose values fit into a byte, ``(H, W)``; of a palette, the indices.

    Raises:
        ValueError: The file is damaged or has other pixels.
    """
    return _read_whole_numbers(path, "8-bit single-channel", np.uint8)


def read_uint16(path: Path) -> NDArray[np.uint16]:
    """Reads an image of two bytes a pixel, ``(H, W)``, without loss.

    Raises:
        ValueError: The file is damaged or has other pixels.
    """
    return _read_whole_numbers(path, "16-bit single-channel", np.uint16)


def read_float_map(path: Path) -> NDArray[np.float32]:
    """Reads a ``.npy`` array of floating-point numbers, ``(H, W)``.

    Raises:
        ValueError: The file is damaged or holds another array.
    """
    return np.array(_open_map(path), np.float32)


@contextmanager
def open_image(path: Path, kind: Kind | None = None) -> Iterator[Image.Image]:
    """Opens an image for the body of a ``with`` statement.

    Args:
        path: The file.
        kind: The kind of pixels it must have; ``None`` allows all.

    Raises:
        UnreadableError: The file is damaged, here or when the body decodes its pixels, or its pixels are of another
            kind.
    """
    with _naming(path), Image.open(path) as image:
        if kind is not None and image.mode not in _MODES[kind]:
            raise UserError(f"its pixels are of mode {image.mode}, not {kind}")
        yield image


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Replaces an error about a file by one sentence that names the file."""
    try:
        yield
    # Pillow reports damage by all of these, also when pixels are decoded
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise UnreadableError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None


def _stored(path: Path, kind: Kind | None) -> Image.Image | NDArray[Any]:
    """The upright pixels as they are stored, ``(H, W)`` or, as RGB, ``(H, W, 3)``; bytes as an RGB image."""
    try:
        with open_image(path, kind) as image:
            _check_tiff(image)
            if image.mode in _DEEP:
                return _upright(_numbers(path, image), image)
            if _is_deep(path, image):  # Pillow would cut off the lower 8 bits of each channel
                image.load()  # reports damage, which OpenCV would fill with zeros
                return _upright(_decoded(path), image)
            colours = image.convert("RGB")
            return colours if _orientation(image) == 1 else Image.fromarray(_upright(np.array(colours), image))
    except UnreadableError as error:
        # Pillow does not know TIFF files of 64-bit floats, or of several channels of floats
        if kind is None and isinstance(error.__context__, UnidentifiedImageError) and path.suffix.lower() in _TIFF:
            with _naming(path):
                tags = _tiff_tags(path)
                if tags.next:
                    raise UserError("it holds several images, and should hold one") from None
                _check_layout(tags)
                return _decoded(path)
        raise


def _numbers(path: Path, image: Image.Image) -> NDArray[Any]:
    """The values ``(H, W)`` of an image of one channel."""
    tags = _tags(image)
    if image.mode == "I" and image.format == "TIFF" and tags.get(_SAMPLE_FORMAT, (1,))[0] != _SIGNED:
        return np.array(image).view(np.uint32)  # Pillow has no mode for it
    if image.mode in ("I", "F") and getattr(tags, "prefix", b"II") == b"MM":
        image.load()
        return _decoded(path)  # Pillow mixes up the bytes of compressed files
    return np.array(image)


def _is_deep(path: Path, image: Image.Image) -> bool:
    """Whether an image of several channels has more than 8 bits in each."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] > 8  # the bit depth, in the first chunk
    return _has_deep_channels(_tags(image))


def _decoded(path: Path) -> NDArray[Any]:
    """RGB ``(H, W, 3)``, or one channel ``(H, W)``, by OpenCV."""
    level = cv2.utils.logging.setLogLevel(0)  # silent
    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise UserError("it is no whole image of 1, 3 or 4 channels")
    return pixels[..., 2::-1] if pixels.ndim == 3 else pixels


def _tags(image: Image.Image) -> Any:
    """The tags of a TIFF file by number; none of a file of another format."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def _tiff_tags(path: Path) -> Any:
    """The tags of a TIFF file that Pillow does not open."""
    with path.open("rb") as file:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
    return tags


def _check_tiff(image: Image.Image) -> None:
    """Raises a ValueError if a TIFF file holds several images, or pixels that the libraries would mix up."""
    if image.format != "TIFF":
        return
    pages, size = getattr(image, "n_frames", 1), image.size
    if pages > 1:
        image.seek(1)
        if image.size == size:  # smaller copies do no harm
            raise UserError(f"it holds {pages} images, and should hold one")
        image.seek(0)
    if not _has_deep_channels(_tags(image)) and _SIGNED not in _tags(image).get(_SAMPLE_FORMAT, ()):
        return  # Pillow reads all kinds of these
    _check_layout(_tags(image))


def _has_deep_channels(tags: Any) -> bool:
    return bool(max(tags.get(_BITS, (8,))) > 8)


def _check_layout(tags: Any) -> None:
    if not _has_deep_channels(tags) and _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise UserError("its bytes have signs")
    if tags.get(_PLANES, 1) != 1 and tags.get(_CHANNELS, 1) > 1:
        raise UserError("its channels lie one after the other, not pixel by pixel")
    if tags.get(_PHOTOMETRIC) == 0:
        raise UserError("0 is white in it: write it with 0 as black")


def _on_byte_scale(values: NDArray[Any], limits: tuple[float, float] | None, path: Path) -> Floats:
    is_float = values.dtype.kind == "f"
    low, high = limits or (0, 1 if is_float else 65535)
    darkest, brightest = values.min(), values.max()
    if not np.isfinite([darkest, brightest]).all():
        raise UnreadableError(f"{path} holds a value that is not finite")
    if limits is None and not low <= darkest <= brightest <= high:
        raise UserError(
            f"{path} holds values from {darkest:g} to {brightest:g}, but {'floats' if is_float else 'whole numbers'} "
            f"should lie from {low} (black) to {high} (white)"
        )
    # a multiplication first, which is exact: a byte that was stored in 16 bits becomes that byte again
    scaled: Floats = (values.astype(np.float32) - np.float32(low)) * np.float32(255) / np.float32(high - low)
    return scaled.clip(0, 255)


def _read_whole_numbers(path: Path, kind: Kind, dtype: Any) -> NDArray[Any]:
    with open_image(path, kind) as image:
        _check_tiff(image)
        values = _upright(_numbers(path, image), image)
        lowest, highest = values.min(), values.max()
        if not 0 <= lowest <= highest <= np.iinfo(dtype).max:
            raise UserError(f"its pixels are of mode {image.mode} and from {lowest} to {highest}, not {kind}")
        return values.astype(dtype)


def _orientation(image: Image.Image) -> int:
    """EXIF's number of the rotation and reflection that make an image upright; 1 is none."""
    # Pillow and OpenCV apply TIFF's tag themselves; of a PNG file, EXIF data behind the pixels would need them all
    if image.format == "TIFF" or (image.format == "PNG" and not _PNG_EXIF & image.info.keys()):
        return 1
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:  # of the EXIF data alone
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    orientation = _orientation(image)
    if orientation == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation > max(_KEEPS_SIZE) else pixels
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(turned[rows, columns])


def _open_map(path: Path) -> NDArray[np.floating]:
    try:
        array: NDArray[np.floating] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableError(f"{path} cannot be read ({error})") from None
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise UnreadableError(f"{path} should hold floats (H, W) and holds {array.dtype} {array.shape}")
    return array
