"""The 40 classes of segmentation of NYU Depth V2, and the file that maps its labels to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.reading.frame import IGNORED
from datamodules.reading.matlab_files import read_integers
from distill.errors import UserError

MAPPING = "classMapping40.mat"

# Gupta et al., "Perceptual organization and recognition of indoor scenes from RGB-D images", CVPR 2013
CLASS_NAMES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat"),
    *("clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box"),
    *("whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    *("other structure", "other furniture", "other prop"),
)

# the file counts the classes from 1; 0 is unlabelled
LABEL_IDS = tuple(range(1, len(CLASS_NAMES) + 1))


def _voc_colour(label: int) -> tuple[int, int, int]:
    """The colour of a label in PASCAL VOC's colour map; the label's bits go to red, green and blue in turn."""
    channels = [sum((label >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3)]
    return channels[0], channels[1], channels[2]


PALETTE = tuple(_voc_colour(label) for label in LABEL_IDS)


def read_mapping(path: Path) -> NDArray[np.uint8]:
    """Reads ``classMapping40.mat``; its ``mapClass`` gives each label, counted from 1, a class from 1 to 40.

    Returns:
        The class of each label, ``(L + 1,)``: 0 to 39, and 255 for label 0, the label of unlabelled pixels.

    Raises:
        ValueError: The file is damaged or holds something else.
    """
    (classes,) = read_integers(path, "mapClass")
    if not classes.size or classes.min() < 1 or classes.max() > len(CLASS_NAMES):
        raise UserError(f"{path} should hold mapClass with classes from 1 to {len(CLASS_NAMES)}")
    return np.concatenate([[IGNORED], classes - 1]).astype(np.uint8)
