"""The lists of files that depth estimators are trained and tested by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from distill.errors import UserError, UserFileNotFoundError


class Listed(NamedTuple):
    """A line of a list: paths as it gives them, ``depth`` ``None`` without ground truth, and the focal length."""

    image: str
    depth: str | None
    focal_length: float


def read_list(path: Path) -> list[Listed]:
    """Reads lines of an image, a depth map or ``None``, and a focal length in pixels.

    This is the format of ``eigen_train_files_with_gt.txt`` and its like, which the published code of BTS (Lee et al.,
    2019) introduced and that of AdaBins and of the monocular depth toolbox keeps. Slashes before a path are left out.

    Raises:
        FileNotFoundError: The list is not there.
        ValueError: It is empty, or a line holds something else.
    """
    if not path.is_file():
        raise UserFileNotFoundError(f"the list {path} is not a file")
    lines = list(_parsed(path))
    if not lines:
        raise UserError(f"the list {path} is empty")
    return lines


def _parsed(path: Path) -> Iterator[Listed]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            image, depth, focal_length = line.split()
            yield Listed(image.lstrip("/"), None if depth == "None" else depth.lstrip("/"), float(focal_length))
        except ValueError:
            raise UserError(
                f"line {number} of {path} should be an image, a depth map or None, and a focal length, as in "
                f"'a/rgb.jpg a/depth.png 721.5377', but is {line.strip()!r}"
            ) from None


def find_listed(paths: Iterable[str], candidates: Callable[[str], Iterable[Path]], kind: str) -> dict[str, Path]:
    """Where the files of a list lie.

    Args:
        paths: As the list gives them.
        candidates: All the places where one may be.
        kind: What they are, in the plural.

    Raises:
        FileNotFoundError: Names the first that is in none of its places, and how many are not.
    """
    found = {path: next((place for place in candidates(path) if place.is_file()), None) for path in paths}
    missing = [path for path, place in found.items() if place is None]
    if missing:
        first = next(iter(candidates(missing[0])))
        raise UserFileNotFoundError(f"{len(missing)} of {len(found)} listed {kind} are not there, the first is {first}")
    return {path: place for path, place in found.items() if place is not None}
