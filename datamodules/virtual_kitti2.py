"""Virtual KITTI 2: rendered clones of five KITTI drives (LIX, Sec. IV-A)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.frames import FrameDataModule
from datamodules.reading.folders import check_paired, find_folder, list_files
from datamodules.reading.frame import Camera, Frames
from datamodules.reading.frame_files import FileFrames, FrameFiles, read_scaled_depth
from datamodules.reading.image_files import read_color
from datamodules.reading.text_files import read_lines
from datamodules.serving.splitting import split_by_shares
from distill.checks import check_at_least, check_option
from distill.errors import UserError, UserFileNotFoundError

SCENES = ("Scene01", "Scene02", "Scene06", "Scene18", "Scene20")
VARIATIONS = (
    "clone",
    "fog",
    "morning",
    "overcast",
    "rain",
    "sunset",
    "15-deg-left",
    "15-deg-right",
    "30-deg-left",
    "30-deg-right",
)
# the colors.txt of every sequence
CLASS_COLORS = {
    "Terrain": (210, 0, 200),
    "Sky": (90, 200, 255),
    "Tree": (0, 199, 0),
    "Vegetation": (90, 240, 0),
    "Building": (140, 140, 140),
    "Road": (100, 60, 100),
    "GuardRail": (250, 100, 255),
    "TrafficSign": (255, 255, 0),
    "TrafficLight": (200, 200, 0),
    "Pole": (255, 130, 0),
    "Misc": (80, 80, 80),
    "Truck": (160, 60, 60),
    "Car": (255, 127, 80),
    "Van": (0, 139, 139),
    "Undefined": (0, 0, 0),
}
# the intrinsics of every intrinsic.txt; no file gives the height: this is that of the KITTI camera
VKITTI2_CAMERA = Camera(fx=725.0087, fy=725.0087, cx=620.5, cy=187.0, baseline=0.532725, height=1.65)

_CODES = np.array([red << 16 | green << 8 | blue for red, green, blue in CLASS_COLORS.values()], np.uint32)
_CODE_ORDER = _CODES.argsort().astype(np.uint8)
_SORTED_CODES = _CODES[_CODE_ORDER]


class VirtualKITTI2(FrameDataModule):
    """Rendered street scenes with exact depth and semantics.

    Source: Cabon, Murray and Humenberger, "Virtual KITTI 2", 2020; Gaidon et al., "Virtual Worlds as Proxy for
    Multi-Object Tracking Analysis", CVPR 2016. As in LIX, Sec. IV-A, 1,500 images are drawn at random and split at
    random 6:1:3 into training, validation and test; the seed fixes both. Images of one drive resemble each other, so
    the test is easier than a test on another drive.

    The root holds the unpacked archives ``vkitti_2.0.3_rgb.tar``, ``..._depth.tar``, ``..._classSegmentation.tar`` and,
    optionally, ``..._textgt.tar.gz``::

        root/Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg
        root/Scene01/clone/frames/depth/Camera_0/depth_00000.png                    16 bits, centimetres
        root/Scene01/clone/frames/classSegmentation/Camera_0/classgt_00000.png      RGB, a colour a class
        root/Scene01/clone/intrinsic.txt, root/Scene01/clone/colors.txt

    ``Camera_0`` is the left camera. The sky's depth is 655.35 m, the largest number that the files hold. ``target``
    holds the paper's 15 classes in the order of ``colors.txt``: its 14 categories and, as number 14, ``Undefined``.
    A ``colors.txt`` with other colours is refused. All scenes have the same camera, which is used where
    ``intrinsic.txt`` is missing.

    Args:
        root: Holds ``Scene01``, ``Scene02``, ``Scene06``, ``Scene18`` and ``Scene20``.
        variations: The renderings to draw from: ``clone``, ``fog``, ``morning``, ``overcast``, ``rain``, ``sunset``,
            ``15-deg-left``, ``15-deg-right``, ``30-deg-left`` and ``30-deg-right``. The paper does not give its choice.
            ``clone`` has 2,126 images. With ``clone`` alone, no moment of a drive is in two splits in different
            weather.
        n_images: The number of images to draw; ``None`` takes all.
        **kwargs: Arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: files of one image differ in size, a header is
            damaged, a text file holds something else, or there are too few images. When an image is read: a file is
            damaged or holds a colour of no class.
        FileNotFoundError: From ``setup``: a folder or the partner of a file is missing.
    """

    class_names = tuple(CLASS_COLORS)
    palette = tuple(CLASS_COLORS.values())

    def __init__(
        self,
        root: str | Path,
        variations: Sequence[str] = ("clone",),
        n_images: int | None = 1500,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for variation in variations:
            check_option("variations", variation, VARIATIONS)
        if not variations or len(set(variations)) < len(variations):
            raise UserError(f"variations must name at least one, and each once, got {list(variations)}")
        check_at_least(1, n_images=n_images)
        self.root = Path(root)
        self.variations = tuple(variations)
        self.n_images = n_images

    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """Pairs the files, draws ``n_images`` of them and splits these 6:1:3."""
        sequences = [f"{scene}/{variation}" for scene in SCENES for variation in sorted(self.variations)]
        files = [files for sequence in sequences for files in self._find_files(sequence)]
        parts = split_by_shares(files, (6, 1, 3), self.seed, self.n_images)
        read_target = _read_classes if self.target == "classes" else None
        read_depth = partial(read_scaled_depth, units_per_metre=100)
        train, val, test = (FileFrames(part, self.root, read_target, read_depth) for part in parts)
        return train, val, test

    def _find_files(self, sequence: str) -> Iterator[FrameFiles]:
        def find(kind: str, prefix: str, suffix: str) -> tuple[Path, dict[str, Path]]:
            folder = find_folder(
                self.root, f"{sequence}/frames/{kind}/Camera_0", f"unpack vkitti_2.0.3_{kind}.tar there"
            )
            return folder, list_files(folder, prefix, suffix)

        image_folder, images = find("rgb", "rgb_", ".jpg")
        label_folder, labels = find("classSegmentation", "classgt_", ".png")
        depth_folder, depths = find("depth", "depth_", ".png")
        if not images:
            raise UserFileNotFoundError(f"{image_folder} holds no images, which are named like rgb_00000.jpg")
        check_paired(images, "images", labels, "label", label_folder)
        check_paired(images, "images", depths, "depth", depth_folder)
        check_paired(labels, "labels", images, "image", image_folder)

        _check_colors(self.root / sequence / "colors.txt")
        cameras = _read_cameras(self.root / sequence / "intrinsic.txt", images)
        for key, image in images.items():
            yield FrameFiles(image, labels[key], depths[key], cameras[key])


def _check_colors(path: Path) -> None:
    if not path.is_file():
        return
    for line in read_lines(path)[1:]:
        name, *color = line.split() or [""]
        if name and [str(value) for value in CLASS_COLORS.get(name, ())] != color:
            raise UserError(f"{path} says {line.strip()!r}, which is no class of version 2.0.3 or has another colour")


def _read_cameras(path: Path, images: dict[str, Path]) -> dict[str, Camera]:
    """The left camera of every image; the file has a heading and lines of frame, camera, fx, fy, cx and cy."""
    if not path.is_file():
        return dict.fromkeys(images, VKITTI2_CAMERA)
    try:
        cameras = {
            f"{int(frame):05d}": VKITTI2_CAMERA._replace(**dict(zip(("fx", "fy", "cx", "cy"), intrinsics, strict=True)))
            for frame, camera, *intrinsics in np.loadtxt(read_lines(path), skiprows=1, ndmin=2).tolist()
            if camera == 0
        }
    except ValueError:
        raise UserError(
            f"{path} should hold a heading and lines of six numbers: frame, camera, fx, fy, cx, cy"
        ) from None
    for key, image in images.items():
        if key not in cameras:
            raise UserError(f"{path} has no line for camera 0 and the frame of {image}")
        camera = cameras[key]
        if not np.isfinite(camera).all() or min(camera.fx, camera.fy) <= 0:
            raise UserError(
                f"{path} should give finite numbers, and focal lengths above 0, but gives {camera.fx}, {camera.fy}, "
                f"{camera.cx} and {camera.cy} for camera 0 and the frame of {image}"
            )
    return cameras


def _read_classes(path: Path) -> NDArray[np.uint8]:
    colors = read_color(path)
    if colors.dtype != np.uint8:
        raise UserError(f"{path} should hold colours of 8 bits, as those of the classes are, and holds deeper ones")
    red, green, blue = colors.astype(np.uint32).transpose(2, 0, 1)
    codes = red << 16 | green << 8 | blue
    position = np.searchsorted(_SORTED_CODES, codes).clip(max=len(_CODES) - 1)
    unknown = codes[_SORTED_CODES[position] != codes]
    if unknown.size:
        color = tuple(int(unknown[0]) >> shift & 255 for shift in (16, 8, 0))
        raise UserError(f"{path} holds the colour {color} in {unknown.size} pixels, which belongs to no class")
    classes: NDArray[np.uint8] = _CODE_ORDER[position]
    return classes
