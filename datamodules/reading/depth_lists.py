"""Lists of frames, which name the images and depth maps to train or to test on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.reading.text_files import read_lines
from distill.errors import UserError, UserFileNotFoundError


class ListedFrame(NamedTuple):
    """A line of a list: the paths of image and depth (``None`` if there is none), and the focal length in pixels."""

    image: str
    depth: str | None
    focal_length: float


def both_lists(train_list: str | Path | None, test_list: str | Path | None) -> tuple[Path | None, Path | None]:
    """The paths of the lists to train and to test on; both are ``None`` where neither is given.

    Raises:
        ValueError: Only one is given.
    """
    if train_list is None and test_list is None:
        return None, None
    if train_list is None or test_list is None:
        raise UserError(f"train_list and test_list go together, got {train_list} and {test_list}")
    return Path(train_list), Path(test_list)


def read_list(path: Path) -> list[ListedFrame]:
    """Reads lines of an image, a depth map or ``None``, and a focal length in pixels.

    ``eigen_train_files_with_gt.txt`` and similar lists have this format. The published code of BTS (Lee et al., 2019)
    introduced it; the code of AdaBins and of the monocular depth toolbox keeps it. A slash before a path is left out.

    Raises:
        FileNotFoundError: The list does not exist.
        ValueError: The list is empty, or a line holds something else.
    """
    if not path.is_file():
        raise UserFileNotFoundError(f"the list {path} is not a file")
    lines = list(_parsed(path))
    if not lines:
        raise UserError(f"the list {path} is empty")
    return lines


def _parsed(path: Path) -> Iterator[ListedFrame]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            image, depth, focal_length = line.split()
            if not 0 < float(focal_length) < float("inf"):
                raise UserError(f"the focal length is {focal_length}")
            yield ListedFrame(image.lstrip("/"), None if depth == "None" else depth.lstrip("/"), float(focal_length))
        except ValueError:
            raise UserError(
                f"line {number} of {path} should be an image, a depth map or None, and a focal length, as in "
                f"'a/rgb.jpg a/depth.png 721.5377', but is {line.strip()!r}"
            ) from None


def find_listed(paths: Iterable[str], candidates: Callable[[str], Iterable[Path]], kind: str) -> dict[str, Path]:
    """Finds the files of a list.

    Args:
        paths: The paths that the list gives.
        candidates: Returns all places where the file of a path may lie.
        kind: What the files are, in the plural.

    Returns:
        The file of each path.

    Raises:
        FileNotFoundError: Names the first missing file, and how many are missing.
    """
    found = {path: next((file for file in candidates(path) if file.is_file()), None) for path in paths}
    missing = [path for path, file in found.items() if file is None]
    if missing:
        first = next(iter(candidates(missing[0])))
        raise UserFileNotFoundError(f"{len(missing)} of {len(found)} listed {kind} are not there, the first is {first}")
    return {path: file for path, file in found.items() if file is not None}
