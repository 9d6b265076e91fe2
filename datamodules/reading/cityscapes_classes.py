"""The 19 classes on which Cityscapes and KITTI evaluate, and the ids under which both store labels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.frame import IGNORED
from datamodules.reading.image_files import read_labels
from distill.errors import UserError

ALL_LABELS = 34  # 0 to 33, of evaluated and other classes


class StreetClass(NamedTuple):
    """An evaluated class: its id in label files, its name and its official colour. Its position is its train id."""

    label_id: int
    name: str
    color: tuple[int, int, int]


# Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016, and its published scripts
STREET_CLASSES = (
    StreetClass(7, "road", (128, 64, 128)),
    StreetClass(8, "sidewalk", (244, 35, 232)),
    StreetClass(11, "building", (70, 70, 70)),
    StreetClass(12, "wall", (102, 102, 156)),
    StreetClass(13, "fence", (190, 153, 153)),
    StreetClass(17, "pole", (153, 153, 153)),
    StreetClass(19, "traffic light", (250, 170, 30)),
    StreetClass(20, "traffic sign", (220, 220, 0)),
    StreetClass(21, "vegetation", (107, 142, 35)),
    StreetClass(22, "terrain", (152, 251, 152)),
    StreetClass(23, "sky", (70, 130, 180)),
    StreetClass(24, "person", (220, 20, 60)),
    StreetClass(25, "rider", (255, 0, 0)),
    StreetClass(26, "car", (0, 0, 142)),
    StreetClass(27, "truck", (0, 0, 70)),
    StreetClass(28, "bus", (0, 60, 100)),
    StreetClass(31, "train", (0, 80, 100)),
    StreetClass(32, "motorcycle", (0, 0, 230)),
    StreetClass(33, "bicycle", (119, 11, 32)),
)
CLASS_NAMES = tuple(street_class.name for street_class in STREET_CLASSES)
PALETTE = tuple(street_class.color for street_class in STREET_CLASSES)
LABEL_IDS = tuple(street_class.label_id for street_class in STREET_CLASSES)

_TRAIN_IDS = np.full(256, IGNORED, np.uint8)
_TRAIN_IDS[list(LABEL_IDS)] = np.arange(len(STREET_CLASSES))


def read_train_ids(path: Path) -> NDArray[np.uint8]:
    """Reads a PNG of label ids as train ids.

    Args:
        path: An image of one byte a pixel: 0 to 33, or 255, which stands for the licence plate's id of -1.

    Returns:
        ``(H, W)``: 0 to 18, and 255 where the label is not evaluated.

    Raises:
        ValueError: The file is damaged or holds another number.
    """
    labels = read_labels(path)
    unknown = labels[(labels >= ALL_LABELS) & (labels != IGNORED)]
    if unknown.size:
        raise UserError(
            f"{path} holds the label {unknown[0]} in {unknown.size} pixels, Cityscapes' label ids are 0 to 33 and 255"
        )
    return _TRAIN_IDS[labels]
