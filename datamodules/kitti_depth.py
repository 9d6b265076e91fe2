"""KITTI's raw drives with annotated depth, by the Eigen split (TIE-KD, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.frames import FrameDataModule
from datamodules.reading.depth_lists import ListedFrame, both_lists, find_listed, read_list
from datamodules.reading.folders import find_folder, list_files, subfolders
from datamodules.reading.frame import Frames
from datamodules.reading.frame_files import FileFrames, FrameFiles, read_scaled_depth
from datamodules.reading.kitti_calibration import RawCameras
from datamodules.serving.geometry import Geometry
from datamodules.serving.splitting import held_out_groups
from distill.checks import check_at_least
from distill.errors import UserError, UserFileNotFoundError

KB_CROP = (352, 1216)
"""Height and width of the benchmark's crop, which fits into the images of all drives."""


class KITTIDepth(FrameDataModule):
    """KITTI's raw images; the ground truth is lidar depth, accumulated over eleven scans.

    Source: Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013 (images); Uhrig et al., "Sparsity
    Invariant CNNs", 3DV 2017 (annotated depth); Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image
    using a Multi-Scale Deep Network", NIPS 2014 (split). TIE-KD, Sec. 4.1, and the methods in its tables use the same
    data. As there, **the test split is the validation split**, so a score at the best epoch is a little too good.
    ``val_drives`` validates on training drives instead.

    Two folders hold the unpacked raw drives ("synced+rectified data") and ``data_depth_annotated.zip``::

        raw_dir/2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png      RGB, about 375 x 1242
        raw_dir/2011_09_26/calib_cam_to_cam.txt         P_rect_02 and P_rect_03, from 2011_09_26_calib.zip
        depth_dir/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png
                                                        16 bits, 256 times the depth in metres, 0: not measured

    Images may also be ``.jpg`` files, even where a list says ``.png``. The drives of depth may also lie in
    ``depth_dir/train`` and ``depth_dir/val``, as in the archive. The lists are those of the published code of BTS,
    AdaBins and the monocular depth toolbox, ``eigen_train_files_with_gt.txt`` and ``eigen_test_files_with_gt.txt``,
    with lines such as ``2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png
    2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png 721.5377``. The number is the focal
    length; ``None`` replaces the depth of an image without ground truth. The lists of BTS lack the date in front, and
    can be read, too. Of the 697 test images of the split, 652 have ground truth and are used.

    Two other kinds of lists can be read: those without a focal length, such as ``kitti_benchmark_train.txt`` of the
    toolbox, and monodepth2's, with lines such as ``2011_09_26/2011_09_26_drive_0002_sync 69 l`` (``r`` is the right
    camera, ``image_03``). monodepth2's do not say which images have ground truth: those without a file in ``depth_dir``
    have none.

    Without lists, the drives of the left camera are split as in the depth benchmark, by the folders ``train`` and
    ``val``. Scores on this split cannot be compared with the papers' scores.

    Geometry is as sparse as the depth, so by default ``geometry`` is empty. ``normal`` and ``hha`` need the camera of
    each day, from its ``calib_cam_to_cam.txt``; that of 2011_09_26 is also known without the file.

    A stored response has the name of the image's path below ``raw_dir``,
    ``2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png``, and the size of the image or of the crop.
    The responses of TIE-KD's released code can be read as they are: ``responses`` is the folder ``gt_kd_adabins``. Its
    files are named ``2011_09_26_2011_09_26_drive_0002_sync_image_02_data_0000000069.png`` and count 80/65535 m. The
    responses to validate on are found in ``gt_kd_adabins_val`` beside it.

    The papers train with an ``augmentation`` with ``scale=(1, 1)`` and ``crop=(352, 704)``.

    Args:
        raw_dir: Holds the days of the raw drives, ``2011_09_26`` and so on.
        depth_dir: Holds the drives of annotated depth, or the folders ``train`` and ``val`` with them.
        train_list: A list of the images to train on; needs ``test_list``.
        test_list: A list of the images to test on; needs ``train_list``.
        train_without_depth: Whether to train on images without ground truth, too. The method must need no hard labels.
        val_drives: The number of training drives to validate on, drawn by the seed; 0 validates on the test split.
        kb_crop: Whether to keep only the lowest 352 rows and the middle 1216 columns, in all splits.
        geometry: As in :class:`~datamodules.frames.FrameDataModule`.
        **kwargs: Further arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a line of a list is something else, files of one
            image differ in size, or a header is damaged. When an image is read: a file is damaged.
        FileNotFoundError: From ``setup``: a folder, a list or a listed file is missing, or the calibration of a day
            that ``geometry`` needs.
    """

    # the released code of TIE-KD writes 80 m as 65535
    flat_response_unit = 80 / 65535

    def __init__(
        self,
        raw_dir: str | Path,
        depth_dir: str | Path,
        train_list: str | Path | None = None,
        test_list: str | Path | None = None,
        train_without_depth: bool = False,
        val_drives: int = 0,
        kb_crop: bool = True,
        geometry: Sequence[Geometry] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(geometry=geometry, target="depth", **kwargs)
        check_at_least(0, val_drives=val_drives)
        self.raw_dir, self.depth_dir = Path(raw_dir), Path(depth_dir)
        self.train_list, self.test_list = both_lists(train_list, test_list)
        self.train_without_depth = train_without_depth
        self.val_drives = val_drives
        self.kb_crop = kb_crop

    @property
    def fixed_crop(self) -> tuple[int, int] | None:
        """The benchmark's crop, if ``kb_crop`` is true."""
        return KB_CROP if self.kb_crop else None

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """Finds the files of both lists and draws the training drives to validate on."""
        for name, folder in {"raw_dir": self.raw_dir, "depth_dir": self.depth_dir}.items():
            if not folder.is_dir():
                raise UserFileNotFoundError(f"{name} {folder} is not a folder")
        train = self._listed(self.train_list, "train")
        test = [line for line in self._listed(self.test_list, "val") if line.depth is not None]
        if not self.train_without_depth:
            train = [line for line in train if line.depth is not None]
        for name, lines in {"train": train, "test": test}.items():
            if not lines:
                raise UserError(f"there is no ground truth for any image to {name} on")
        train, val = self._split_by_drive(train)
        test_frames = self._frames(test)
        return self._frames(train), self._frames(val) if val else test_frames, test_frames

    def _listed(self, path: Path | None, folder: str) -> list[ListedFrame]:
        if path is None:
            return list(self._benchmark_split(folder))
        return [
            line._replace(depth=None) if line.depth_may_lack and not self._holds_depth(line) else line
            for line in read_list(path)
        ]

    def _holds_depth(self, line: ListedFrame) -> bool:
        return line.depth is not None and any(path.is_file() for path in self._depth_candidates(line.depth))

    def _benchmark_split(self, folder: str) -> Iterator[ListedFrame]:
        """The frames of a folder of the annotated depth, as lines of a list."""
        advice = "unpack data_depth_annotated.zip there, or give train_list and test_list"
        for drive in subfolders(find_folder(self.depth_dir, folder, advice)):
            depths = list_files(drive / "proj_depth" / "groundtruth" / "image_02", "", ".png")
            for key, depth in depths.items():
                image = f"{drive.name[:10]}/{drive.name}/image_02/data/{key}.png"
                yield ListedFrame(image, depth.relative_to(self.depth_dir).as_posix())

    def _split_by_drive(self, lines: list[ListedFrame]) -> tuple[list[ListedFrame], list[ListedFrame]]:
        drives = {_drive(line) for line in lines}
        held_out = held_out_groups(drives, self.val_drives, self.seed, "val_drives", "training drives")
        train = [line for line in lines if _drive(line) not in held_out]
        return train, [line for line in lines if _drive(line) in held_out]

    def _frames(self, lines: Sequence[ListedFrame]) -> FileFrames:
        images = find_listed((line.image for line in lines), self._image_candidates, "images")
        depths = find_listed((line.depth for line in lines if line.depth), self._depth_candidates, "depth maps")
        cameras = RawCameras(self.raw_dir, required=bool({"normal", "hha"} & set(self.geometry)))
        files = [
            FrameFiles(
                images[line.image],
                None,
                depths[line.depth] if line.depth else None,
                cameras.camera(images[line.image], line.focal_length),
            )
            for line in lines
        ]
        return FileFrames(files, self.raw_dir, None, partial(read_scaled_depth, units_per_metre=256))

    def _image_candidates(self, listed: str) -> Iterable[Path]:
        for path in (self.raw_dir / listed, self.raw_dir / listed[:10] / listed):
            yield path
            yield path.with_suffix(".jpg" if path.suffix == ".png" else ".png")

    def _depth_candidates(self, listed: str) -> Iterable[Path]:
        return (self.depth_dir / folder / listed for folder in ("", "train", "val"))


def _drive(line: ListedFrame) -> str:
    """The drive of a line: the name of the folder above ``image_02/data/0000000069.png``."""
    return Path(line.image).parts[-4] if line.image.count("/") >= 3 else ""
