"""The 19 classes of SemanticKITTI's benchmark for single scans, and the labels that each merges."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.frame import IGNORED
from datamodules.reading.lidar import read_semantics
from distill.errors import UserError


class ScanClass(NamedTuple):
    """An evaluated class: its name, the labels in the files that belong to it, and its colour."""

    name: str
    labels: tuple[int, ...]
    color: tuple[int, int, int]


# Behley et al., "SemanticKITTI", ICCV 2019, and its published configuration; labels from 252 on are moving objects
SCAN_CLASSES = (
    ScanClass("car", (10, 252), (100, 150, 245)),
    ScanClass("bicycle", (11,), (100, 230, 245)),
    ScanClass("motorcycle", (15,), (30, 60, 150)),
    ScanClass("truck", (18, 258), (80, 30, 180)),
    # with buses and rail vehicles
    ScanClass("other-vehicle", (20, 13, 16, 256, 257, 259), (0, 0, 255)),
    ScanClass("person", (30, 254), (255, 30, 30)),
    ScanClass("bicyclist", (31, 253), (255, 40, 200)),
    ScanClass("motorcyclist", (32, 255), (150, 30, 90)),
    # with its lane markings
    ScanClass("road", (40, 60), (255, 0, 255)),
    ScanClass("parking", (44,), (255, 150, 255)),
    ScanClass("sidewalk", (48,), (75, 0, 75)),
    ScanClass("other-ground", (49,), (175, 0, 75)),
    ScanClass("building", (50,), (255, 200, 0)),
    ScanClass("fence", (51,), (255, 120, 50)),
    ScanClass("vegetation", (70,), (0, 175, 0)),
    ScanClass("trunk", (71,), (135, 60, 0)),
    ScanClass("terrain", (72,), (150, 240, 80)),
    ScanClass("pole", (80,), (255, 240, 150)),
    ScanClass("traffic-sign", (81,), (255, 0, 0)),
)
# unlabelled, outlier, other structure, other object
IGNORED_LABELS = (0, 1, 52, 99)
CLASS_NAMES = tuple(scan_class.name for scan_class in SCAN_CLASSES)
PALETTE = tuple(scan_class.color for scan_class in SCAN_CLASSES)
# the benchmark takes the first label of each class, the one of standing objects
LABEL_IDS = tuple(scan_class.labels[0] for scan_class in SCAN_CLASSES)

_UNKNOWN = 254
_CLASSES = np.full(2**16, _UNKNOWN, np.uint8)
_CLASSES[list(IGNORED_LABELS)] = IGNORED
for _position, _scan_class in enumerate(SCAN_CLASSES):
    _CLASSES[list(_scan_class.labels)] = _position


def read_classes(path: Path, points: int) -> NDArray[np.uint8]:
    """Reads a ``.label`` file as classes.

    Args:
        path: The file.
        points: The number of points of the scan.

    Returns:
        ``(N,)``: 0 to 18, and 255 where the label is not evaluated.

    Raises:
        ValueError: There are more or fewer labels than points, or a label is unknown.
    """
    labels = read_semantics(path, points)
    classes = _CLASSES[labels]
    unknown = labels[classes == _UNKNOWN]
    if unknown.size:
        raise UserError(f"{path} holds the label {unknown[0]} of {unknown.size} points, which is not SemanticKITTI's")
    return classes
