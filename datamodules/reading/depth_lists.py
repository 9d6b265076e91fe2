"""Lists of frames, which name the images and depth maps to train or to test on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.reading.text_files import read_lines
from distill.errors import UserError, UserFileNotFoundError

SIDES = {"l": "image_02", "r": "image_03"}
"""The folders of KITTI's left and right colour camera."""


class ListedFrame(NamedTuple):
    """A line of a list.

    ``image``, ``depth``: paths, the depth's is ``None`` if there is none; ``focal_length``: pixels, ``None`` if the
    line has none; ``depth_may_lack``: whether the line does not say if there is a depth map.
    """

    image: str
    depth: str | None
    focal_length: float | None = None
    depth_may_lack: bool = False


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
    """Reads lines of an image, a depth map or ``None``, and a focal length in pixels, which may be left out.

    ``eigen_train_files_with_gt.txt`` and similar lists have this format. The published code of BTS (Lee et al., 2019)
    introduced it; the code of AdaBins and of the monocular depth toolbox keeps it, and the toolbox's lists of KITTI's
    benchmark have no focal length. A slash before a path is left out.

    Lists of monodepth2 (Godard et al., ICCV 2019) have lines of a drive, the number of an image, and ``l`` or ``r`` for
    the left or the right camera. They become paths of KITTI's raw drives and of its annotated depth.

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
            yield _of_drive(*words) if len(words := line.split()) == 3 and words[2] in SIDES else _of_paths(*words)
        except (ValueError, TypeError):  # a TypeError for another number of words
            raise UserError(
                f"line {number} of {path} should be an image, a depth map or None, and a focal length, as in "
                "'a/rgb.jpg a/depth.png 721.5377' (which may lack the focal length), or a drive, a number, and l or r, "
                f"as in '2011_09_26/2011_09_26_drive_0002_sync 69 l', but is {line.strip()!r}"
            ) from None


def _of_paths(image: str, depth: str, focal_length: str | None = None) -> ListedFrame:
    if focal_length is not None and not 0 < float(focal_length) < float("inf"):
        raise UserError(f"the focal length is {focal_length}")
    return ListedFrame(
        image.lstrip("/"),
        None if depth == "None" else depth.lstrip("/"),
        None if focal_length is None else float(focal_length),
    )


def _of_drive(drive: str, number: str, side: str) -> ListedFrame:
    """A line of monodepth2's lists; the first and the last images of a drive have no annotated depth."""
    camera, file = SIDES[side], f"{int(number):010d}.png"
    depth = f"{Path(drive).name}/proj_depth/groundtruth/{camera}/{file}"
    return ListedFrame(f"{drive.strip('/')}/{camera}/data/{file}", depth, depth_may_lack=True)


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
