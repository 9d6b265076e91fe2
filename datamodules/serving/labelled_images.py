"""Images with a class each, in memory or in files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, STL10
from torchvision.datasets.folder import IMG_EXTENSIONS

from datamodules.reading.arrays import Bytes, Floats, Pixels
from datamodules.reading.digits import bundled_digits
from datamodules.reading.folders import find_folder, subfolders, walk_files
from datamodules.reading.image_files import read_image
from datamodules.reading.text_files import read_lines
from datamodules.serving.sampling import flip_where
from distill.errors import UserError, UserFileNotFoundError

DatasetName = Literal["digits", "cifar10", "cifar100", "stl10", "tiny_imagenet", "image_folder"]

AUGMENTATION_NUMBERS = 5
"""How many random numbers the augmentation of an image takes."""

CENTRE_CROP = 0.875
"""The part of an ImageNet image's shorter side that is used in validation and test: 224 of 256 pixels."""


class ImagesInMemory:
    """Images of one size, as bytes.

    Args:
        pixels: ``(N, C, H, W)``.
        augmented: Whether :meth:`read` can shift and flip them.
    """

    def __init__(self, pixels: Bytes, augmented: bool) -> None:
        self.pixels = pixels
        self.augmented = augmented

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape[2:]
        return height, width

    def read(self, positions: NDArray[np.int64], numbers: Floats | None) -> Pixels:
        """The images at these positions, ``(M, C, H, W)``, on the scale of bytes.

        Args:
            positions: ``(M,)``.
            numbers: Random numbers of the augmentation, from 0 to 1, ``(M, AUGMENTATION_NUMBERS)``; ``None`` leaves
                the augmentation out.
        """
        images = self.pixels[positions]
        return images if numbers is None or not self.augmented else shift_and_flip(images, numbers)


class ImageFiles:
    """Images in files of any size and format, upright, as RGB of one size.

    Args:
        paths: One file an image.
        side: Height and width of the images that are returned, in pixels.
        zoom: Whether to cut out windows as is usual for ImageNet: the middle square, with 7/8 of the shorter side, and
            for augmentation a window of 8 to 100 % of the area with an aspect ratio of 3:4 to 4:3. If false, the whole
            image is read, and augmentation shifts it.
    """

    def __init__(self, paths: Sequence[str | Path], side: int, zoom: bool) -> None:
        # an array of strings: workers share its memory, but would copy a list's, whose elements count references
        self.paths = np.array([str(path) for path in paths])
        self.side = side
        self.zoom = zoom

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.side, self.side

    def read(self, positions: NDArray[np.int64], numbers: Floats | None) -> Pixels:
        """The images at these positions, as :meth:`ImagesInMemory.read` returns them.

        Raises:
            ValueError: A file is damaged.
        """
        rows = [None] * len(positions) if numbers is None else numbers
        images = np.stack([self._read(self.paths[at], row) for at, row in zip(positions, rows, strict=True)])
        if numbers is None:
            return images
        return flip_where(numbers[:, 2], images) if self.zoom else shift_and_flip(images, numbers)

    def _read(self, path: str, numbers: Floats | None) -> Pixels:
        def window(width: int, height: int) -> Box:
            if not self.zoom:
                return (0, 0, width, height)
            return middle_square(width, height) if numbers is None else random_window(width, height, numbers)

        return read_rgb(Path(path), self.side, window)


class LabelledImages(NamedTuple):
    """Images, classes ``(N,)`` and the classes' names of a data set; its last ``own_test`` images are its test set."""

    images: ImagesInMemory | ImageFiles
    labels: NDArray[np.int64]
    own_test: int
    class_names: tuple[str, ...]


Box = tuple[float, float, float, float]
"""Left, upper, right and lower border in pixels."""


def read_rgb(
    path: Path,
    side: int,
    window: Callable[[int, int], Box] | None = None,
    limits: tuple[float, float] | None = None,
) -> Pixels:
    """Reads an image as RGB, ``(3, side, side)``, on the scale of bytes; where it shrinks, pixels are averaged.

    Args:
        path: The file.
        side: Height and width to resize to.
        window: Returns the part to read from the image's width and height; ``None`` reads the whole image.
        limits: As in :func:`~datamodules.reading.image_files.read_pixels`.

    Raises:
        ValueError: The file is damaged or is no image, or its values do not lie between the limits.
    """
    image = read_image(path, limits)
    if isinstance(image, Image.Image):
        return np.moveaxis(_resized(image, side, window), -1, 0)
    # Pillow has no mode for three channels of floats
    return np.stack([_resized(Image.fromarray(channel), side, window) for channel in np.moveaxis(image, -1, 0)])


def _resized(image: Image.Image, side: int, window: Callable[[int, int], Box] | None) -> Pixels:
    box = None if window is None else window(image.width, image.height)
    return np.array(image.resize((side, side), Image.Resampling.BILINEAR, box))


def middle_square(width: int, height: int) -> Box:
    """The square in the middle with 7/8 of the shorter side."""
    side = CENTRE_CROP * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_window(width: int, height: int, numbers: Floats) -> Box:
    """A window of 8 to 100 % of the area with an aspect ratio of 3:4 to 4:3, inside the image.

    Args:
        width: In pixels.
        height: In pixels.
        numbers: Random numbers from 0 to 1, ``(AUGMENTATION_NUMBERS,)``: place, size and aspect ratio; the third is not
            used.
    """
    right, down, _, size, aspect = numbers.tolist()
    area = (0.08 + 0.92 * size) * width * height
    ratio = math.exp((2 * aspect - 1) * math.log(4 / 3))
    inner_width, inner_height = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
    left, top = right * (width - inner_width), down * (height - inner_height)
    return left, top, left + inner_width, top + inner_height


def shift_and_flip(images: Pixels, numbers: Floats) -> Pixels:
    """Shifts images by up to an eighth of the side along both axes, filled with black, and flips about half of them.

    Args:
        images: ``(N, C, H, W)``.
        numbers: Random numbers from 0 to 1, ``(N, AUGMENTATION_NUMBERS)``; the first three are used.
    """
    height, width = images.shape[2:]
    margin = width // 8
    padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    left, top = (numbers[:, :2] * (2 * margin + 1)).astype(np.int64).T
    return flip_where(numbers[:, 2], windows[np.arange(len(images)), :, top, left])


def read_labelled_images(dataset: DatasetName, root: Path | None, side: int) -> LabelledImages:
    """Finds a data set and reads its labels; images are read, too, if they fit into memory.

    Args:
        dataset: Its name.
        root: The folder that holds it; not used for digits.
        side: The size of the images of an image folder; the other data sets have their own.

    Raises:
        FileNotFoundError: The data set or a part is missing or damaged.
        ValueError: Its parts do not belong together.
    """
    if dataset == "digits":
        images, labels = bundled_digits()
        pixels = ImagesInMemory(images[:, None], augmented=False)
        return LabelledImages(pixels, labels.astype(np.int64), 0, tuple(map(str, range(10))))
    assert root is not None
    if dataset == "tiny_imagenet":
        return _tiny_imagenet(root)
    if dataset == "image_folder":
        return _image_folder(root, side)
    return _torchvision_images(dataset, root)


def download_images(dataset: DatasetName, root: Path) -> None:
    """Downloads a data set with torchvision, unless the folder holds it."""
    for part in _parts(dataset):
        part(root, download=True)


def downloadable(dataset: DatasetName) -> bool:
    """Whether torchvision can download the data set."""
    return dataset in ("cifar10", "cifar100", "stl10")


def _parts(dataset: DatasetName) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Constructors of the training set and the test set, called with ``root`` and ``download``."""
    make: Callable[..., Any] = {"cifar10": CIFAR10, "cifar100": CIFAR100, "stl10": STL10}[dataset]
    if dataset == "stl10":
        return partial(make, split="train"), partial(make, split="test")
    return partial(make, train=True), partial(make, train=False)


def _torchvision_images(dataset: DatasetName, root: Path) -> LabelledImages:
    try:
        train, test = (part(root, download=False) for part in _parts(dataset))
    except RuntimeError:
        raise UserFileNotFoundError(
            f"root {root} holds no {dataset}, or not all of it as it was published: download=True fetches it"
        ) from None
    labels = "labels" if dataset == "stl10" else "targets"
    pixels = np.concatenate([train.data, test.data])
    if dataset != "stl10":
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    target = np.concatenate([getattr(train, labels), getattr(test, labels)]).astype(np.int64)
    return LabelledImages(ImagesInMemory(pixels, augmented=True), target, len(test.data), tuple(train.classes))


def _tiny_imagenet(root: Path) -> LabelledImages:
    folder = find_folder(
        root, "tiny-imagenet-200", "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in this folder"
    )
    train = _class_folders(find_folder(folder, "train", "unpack tiny-imagenet-200.zip again"))
    annotations = folder / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise UserFileNotFoundError(
            f"{annotations} is not there: unpack tiny-imagenet-200.zip again, or choose image_folder if val has one "
            "folder for each class"
        )
    lines = [line.split("\t") for line in read_lines(annotations) if line.strip()]
    short = next((line for line in lines if len(line) < 2), None)
    if short is not None:
        raise UserError(f"{annotations} should hold lines of an image, a tab and its class, but holds {short[0]!r}")
    strange = sorted({line[1] for line in lines} - set(train.classes))
    if strange:
        raise UserError(f"{annotations} names the class {strange[0]}, which has no folder in {folder / 'train'}")
    labels_by_name = {name: label for label, name in enumerate(train.classes)}
    val = [folder / "val" / "images" / line[0] for line in lines]
    missing = [path for path in val if not path.is_file()]
    if missing:
        raise UserFileNotFoundError(
            f"{len(missing)} of the {len(val)} images that {annotations} names are not there, the first is {missing[0]}"
        )
    paths = [*train.paths, *map(str, val)]
    labels = [*train.labels, *(labels_by_name[line[1]] for line in lines)]
    names = _first_words(folder / "words.txt")
    images = ImageFiles(paths, side=64, zoom=False)
    return LabelledImages(images, np.array(labels), len(val), tuple(names.get(name, name) for name in train.classes))


def _first_words(path: Path) -> dict[str, str]:
    """The first word of each WordNet synset, from lines such as ``n01443537<tab>goldfish, Carassius auratus``."""
    if not path.is_file():
        return {}
    lines = (line.partition("\t") for line in read_lines(path))
    return {synset: words.split(",")[0] for synset, _, words in lines if words}


def _image_folder(root: Path, side: int) -> LabelledImages:
    train, val = (
        _class_folders(find_folder(root, part, "train and val must be there, with one folder of images for each class"))
        for part in ("train", "val")
    )
    if train.classes != val.classes:
        alone = sorted(set(train.classes) ^ set(val.classes))
        raise UserError(
            f"the folders of {root / 'train'} and {root / 'val'} must be the same classes, but {len(alone)} are in one "
            f"only, the first is {alone[0]}"
        )
    paths, labels = [*train.paths, *val.paths], [*train.labels, *val.labels]
    return LabelledImages(ImageFiles(paths, side, zoom=True), np.array(labels), len(val.paths), train.classes)


class _ClassFolders(NamedTuple):
    """The names of classes, sorted, and the files of all images with the position of each one's class."""

    classes: tuple[str, ...]
    paths: list[str]
    labels: list[int]


def _class_folders(folder: Path) -> _ClassFolders:
    """Finds the images of a folder with one folder for each class.

    Raises:
        FileNotFoundError: There is no class, or a class has no images.
        ValueError: An image is in two classes.
    """
    classes = subfolders(folder)
    if not classes:
        raise UserFileNotFoundError(f"{folder} holds no folders, and should hold one folder of images for each class")
    found: dict[str, tuple[str, int]] = {}
    for label, class_folder in enumerate(classes):
        files = walk_files(class_folder, IMG_EXTENSIONS)
        if not files:
            raise UserFileNotFoundError(
                f"the folder of a class, {class_folder}, holds no images ({', '.join(IMG_EXTENSIONS)}): remove it, or "
                "put the images of the class there"
            )
        for real, path in files.items():
            if real in found:
                raise UserError(f"{path} and {found[real][0]} are links to one image, in two classes")
            found[real] = (path, label)
    paths, labels = zip(*found.values(), strict=True)
    return _ClassFolders(tuple(part.name for part in classes), list(paths), list(labels))
