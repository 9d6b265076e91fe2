"""NYU Depth V2: images of rooms with the depth of a Kinect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.frames import FrameDataModule
from datamodules.reading.depth_lists import both_lists, find_listed, read_list
from datamodules.reading.frame import IGNORED, Camera, Frame, Frames
from datamodules.reading.frame_files import FileFrames, FrameFiles, read_scaled_depth
from datamodules.reading.image_files import UnreadableError
from datamodules.reading.matlab_files import read_integers
from datamodules.reading.nyu_classes import CLASS_NAMES, LABEL_IDS, MAPPING, PALETTE, read_mapping
from datamodules.serving.frame_pairs import Target
from datamodules.serving.geometry import Geometry
from distill.errors import UserError, UserFileNotFoundError, UserImportError

LABELED = "nyu_depth_v2_labeled.mat"
LISTS = ("nyudepthv2_train_files_with_gt.txt", "nyudepthv2_test_files_with_gt.txt")
"""The names of the published lists to train and to test on."""

PLACES = {"train": ("train", "sync"), "test": ("test", "official_splits/test")}
"""Folders below the root that hold the scenes of a split; without one, the root itself holds them."""

# the colour camera of the data set's toolbox; height and pitch were not measured
NYU_CAMERA = Camera(fx=518.8579, fy=519.4696, cx=325.5824, cy=253.7362, baseline=float("nan"), height=float("nan"))


class NYUDepthV2(FrameDataModule):
    """Images of 464 rooms with the depth of a Kinect, up to 10 m, 480 x 640.

    Source: Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012. As is usual,
    **the test split is the validation split**, so a score at the best epoch is a little too good.

    The target is depth. With ``target="classes"`` and ``geometry=["depth"]``, it is the segmentation into the 40
    classes of Gupta et al., CVPR 2013, and image and depth are two modalities. (NTDH, Sec. IV-A, also distils from
    image to depth, but completes scenes in three dimensions; its labels are another data set.)

    Two forms of the data set can be read. The first is the labelled images, 795 to train on and 654 to test on, with
    filled holes in the depth::

        root/nyu_depth_v2_labeled.mat       images (1449, 3, 640, 480) bytes, depths (1449, 640, 480) floats in metres
        root/splits.mat                     trainNdxs and testNdxs, counted from 1

    For classes, the file must also hold labels (1449, 640, 480). The folder then also holds ``classMapping40.mat`` of
    Gupta et al., whose ``mapClass`` gives each of the 894 labels a class from 1 to 40.

    The second form is the extracted folders of the published code of BTS and AdaBins::

        root/sync/kitchen_0028b/rgb_00045.jpg               to train on
        root/sync/kitchen_0028b/sync_depth_00045.png        16 bits, millimetres, 0: not measured
        root/official_splits/test/bathroom/rgb_00045.jpg    to test on

    ``root`` may also be the folder above, which holds ``nyu_depth_v2``. Folders named ``train`` and ``test``, or scenes
    in the root itself, are found, too. The lists of that code are ``nyudepthv2_train_files_with_gt.txt`` and
    ``nyudepthv2_test_files_with_gt.txt``, with lines such as ``/kitchen_0028b/rgb_00045.jpg
    /kitchen_0028b/sync_depth_00045.png 518.8579``. Give them as ``train_list`` and ``test_list``, or put them into the
    root. That code scores the pixels from 1 mm to 10 m inside a window: ``DepthEstimation`` with ``crop="nyu"`` and
    ``max_depth=10`` does the same.

    A stored response has the name of the image's path below ``root``. For the labelled images it is
    ``labeled/00045``, with the position in the file, counted from 0.

    Args:
        root: Holds the data set.
        train_list: A list of the images to train on; needs ``test_list``. Without lists, those in the root are used,
            unless it holds the labelled images.
        test_list: A list of the images to test on; needs ``train_list``.
        geometry: As in :class:`~datamodules.frames.FrameDataModule`, without ``hha``, which needs the camera's height.
        target: ``depth``, or ``classes``, which needs the labelled images.
        max_depth: As in :class:`~datamodules.frames.FrameDataModule`.
        **kwargs: Further arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a file is damaged or holds something else.
        FileNotFoundError: From ``setup``: a file is missing.
        ModuleNotFoundError: From ``setup``: h5py, the extra ``nyu``, is not installed; the labelled images need it.
    """

    class_names = CLASS_NAMES
    palette = PALETTE
    label_ids = LABEL_IDS

    def __init__(
        self,
        root: str | Path,
        train_list: str | Path | None = None,
        test_list: str | Path | None = None,
        geometry: Sequence[Geometry] = (),
        target: Target = "depth",
        max_depth: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(geometry=geometry, target=target, max_depth=max_depth, **kwargs)
        if "hha" in geometry:
            raise UserError("geometry cannot be hha: it needs the camera's height and pitch, which are not known")
        if target == "classes" and train_list is not None:
            raise UserError("target cannot be classes with train_list and test_list, whose images have no labels")
        self.root = Path(root)
        self.train_list, self.test_list = both_lists(train_list, test_list)

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """Reads both lists, or the official split of the labelled images; the test split is the validation split."""
        if not self.root.is_dir():
            raise UserFileNotFoundError(f"root {self.root} is not a folder")
        lists = self._lists()
        if lists is not None:
            train, test = self._listed(lists[0], "train"), self._listed(lists[1], "test")
            return train, test, test
        for name in (LABELED, "splits.mat", *((MAPPING,) if self.target == "classes" else ())):
            if not (self.root / name).is_file():
                raise UserFileNotFoundError(
                    f"{self.root} holds no {name}: download it from the data set's page, or give train_list and "
                    f"test_list for extracted folders, such as {LISTS[0]}"
                )
        parts = _read_splits(self.root / "splits.mat")
        classes = read_mapping(self.root / MAPPING) if self.target == "classes" else None
        labeled_train, labeled_test = (LabeledFrames(self.root / LABELED, positions, classes) for positions in parts)
        return labeled_train, labeled_test, labeled_test

    def _lists(self) -> tuple[Path, Path] | None:
        """The lists to train and to test on: the given ones, or else those in the root; ``None`` if there are none."""
        if self.train_list is not None and self.test_list is not None:
            return self.train_list, self.test_list
        if self.target == "classes" or (self.root / LABELED).is_file():
            return None
        places = ([base / name for name in LISTS] for base in self._bases())
        return next(((train, test) for train, test in places if train.is_file() and test.is_file()), None)

    def _bases(self) -> tuple[Path, Path]:
        return self.root, self.root / "nyu_depth_v2"

    def _listed(self, path: Path, split: str) -> FileFrames:
        places = [base / folder for base in self._bases() for folder in PLACES[split]]
        there = [folder for folder in places if folder.is_dir()] or places[:1]

        def candidates(listed: str) -> Iterable[Path]:
            return (folder / listed for folder in (*there, *self._bases()))

        lines = [line for line in read_list(path) if line.depth is not None]
        images = find_listed((line.image for line in lines), candidates, "images")
        depths = find_listed((line.depth for line in lines if line.depth), candidates, "depth maps")
        files = [
            FrameFiles(images[line.image], None, depths[line.depth], NYU_CAMERA)
            for line in lines
            if line.depth is not None
        ]
        return FileFrames(files, self.root, None, partial(read_scaled_depth, units_per_metre=1000))


class LabeledFrames:
    """Some of the labelled images.

    The file is opened for each image: processes cannot share an open file, and opening is much faster than reading.

    Args:
        path: The file ``nyu_depth_v2_labeled.mat``.
        positions: The positions of the images in the file, counted from 0.
        classes: The class of each label; ``None`` reads no labels.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        ValueError: The file is damaged, or holds other arrays or fewer images. When an image is read: it has a label
            without a class.
    """

    def __init__(self, path: Path, positions: Sequence[int], classes: NDArray[np.uint8] | None = None) -> None:
        self.path = path
        self.positions = positions
        self.classes = classes
        self.names = [f"labeled/{position:05d}" for position in positions]
        try:
            with _h5py().File(path) as file:
                images, depths, kind = file["images"].shape, file["depths"].shape, file["images"].dtype
                labels = depths if classes is None else file["labels"].shape
        except (OSError, KeyError) as error:
            raise UnreadableError(f"{path} cannot be read ({error})") from None
        if len(images) != 4 or images[1] != 3 or depths != (images[0], *images[2:]) or max(positions) >= images[0]:
            raise UserError(
                f"{path} should hold images (N, 3, W, H) and depths (N, W, H) with N above {max(positions)}, but holds "
                f"{images} and {depths}"
            )
        if kind != np.uint8:
            raise UserError(f"{path} should hold images of bytes, and holds {kind}")
        if labels != depths:
            raise UserError(f"{path} should hold labels of the shape of depths, {depths}, but they have {labels}")

        self.sizes = [(images[3], images[2])] * len(positions)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Frame:
        position = self.positions[index]
        try:
            with _h5py().File(self.path) as file:
                # MATLAB stores arrays with the first index fastest
                image = np.ascontiguousarray(file["images"][position].transpose(2, 1, 0))
                depth = np.ascontiguousarray(file["depths"][position].T, np.float32)
                labels = None if self.classes is None else np.ascontiguousarray(file["labels"][position].T)
        except OSError as error:
            raise UnreadableError(f"image {position} of {self.path} cannot be read ({error})") from None
        target = np.full(depth.shape, IGNORED, np.uint8) if labels is None else self._target(labels, position)
        return Frame(image, depth, target, NYU_CAMERA)

    def _target(self, labels: NDArray[np.integer], position: int) -> NDArray[np.uint8]:
        assert self.classes is not None
        if labels.max() >= len(self.classes):
            raise UserError(
                f"image {position} of {self.path} has the label {labels.max()}, but {MAPPING} maps the labels up to "
                f"{len(self.classes) - 1}"
            )
        classes: NDArray[np.uint8] = self.classes[labels]
        return classes


def _h5py() -> ModuleType:
    try:
        return import_module("h5py")
    except ModuleNotFoundError:
        raise UserImportError(f"{LABELED} is read with h5py: pip install 'crossdistill[nyu]'") from None


def _read_splits(path: Path) -> list[list[int]]:
    """Positions to train and to test on, counted from 0."""
    parts = read_integers(path, "trainNdxs", "testNdxs")
    if not all(len(part) and part.min() >= 1 for part in parts):
        raise UserError(f"{path} should hold trainNdxs and testNdxs, which count from 1")
    return [sorted((part - 1).tolist()) for part in parts]
