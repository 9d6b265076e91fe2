"""Finds folders and files by name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from distill.errors import UserFileNotFoundError

JUNK = frozenset({"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini", "@eaDir", "lost+found", "$RECYCLE.BIN"})
"""Names of what operating systems and archives leave among the files of a data set, besides hidden files."""


def find_folder(root: Path, name: str, advice: str) -> Path:
    """The folder ``root/name``.

    Args:
        root: The folder that the user gave.
        name: The folder's path below the root, with slashes.
        advice: How to get the folder, for the error.

    Raises:
        FileNotFoundError: The folder is missing. If the root's parent or a subfolder holds it, the error says so.
    """
    if (root / name).is_dir():
        return root / name
    if not root.is_dir():
        raise UserFileNotFoundError(f"root {root} is not a folder")
    for candidate in (root.absolute().parent, *subfolders(root)):
        if (candidate / name).is_dir():
            raise UserFileNotFoundError(f"{root} holds no {name}, but {candidate} does: give that as root")
    raise UserFileNotFoundError(f"{root} holds no {name}: {advice}")


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name belongs to no data set: it is hidden, or one of :data:`JUNK`."""
    return name.startswith(".") or name in JUNK


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without junk."""
    return sorted(folder / entry.name for entry in _entries(folder) if entry.is_dir())


def list_files(folder: Path, prefix: str, suffix: str) -> dict[str, Path]:
    """The files ``<prefix><key><suffix>`` of a folder by their keys, sorted, without junk."""
    names = sorted(entry.name for entry in _entries(folder))
    kept = (name for name in names if name.startswith(prefix) and name.endswith(suffix))
    return {name[len(prefix) : len(name) - len(suffix)]: folder / name for name in kept}


def walk_files(folder: Path, suffixes: Collection[str]) -> dict[str, str]:
    """All files below a folder with one of these suffixes, without junk, sorted by their folders and names.

    Links are followed. Each file is found once, however many links lead to it, and a link to a folder above it is left
    out.

    Args:
        folder: The folder.
        suffixes: In lower case, with the dot; a file's suffix may have any case.

    Returns:
        The path of each file by its real path, in which no folder is a link.

    Raises:
        FileNotFoundError: A link leads nowhere.
    """
    real_folder = folder.resolve()
    found: dict[str, str] = {}
    above = {str(real_folder), *map(str, real_folder.parents)}
    for path, real in _walked(str(folder), str(real_folder), above, suffixes):
        found.setdefault(real, path)
    return dict(sorted(found.items(), key=lambda item: os.path.split(item[1])))


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What a folder holds, without junk."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_junk(entry.name)]
    except OSError as error:
        raise UserFileNotFoundError(f"the folder {folder} cannot be listed ({error.strerror})") from None


def _walked(folder: str, real: str, seen: set[str], suffixes: Collection[str]) -> Iterator[tuple[str, str]]:
    """Path and real path of the files below a folder; enters no folder of ``seen``, and adds to it."""
    # links come last: where a link and a folder lead to one file, the file has the folder's path
    entries = sorted((entry.is_symlink(), entry.name, entry.is_dir()) for entry in _entries(folder))
    for is_link, name, is_folder in entries:
        path, own = f"{folder}{os.sep}{name}", f"{real}{os.sep}{name}"
        target = os.path.realpath(own) if is_link else own
        if is_folder:
            if target not in seen:
                seen.add(target)
                yield from _walked(path, target, seen, suffixes)
        elif Path(name).suffix.lower() in suffixes:
            if is_link and not Path(target).is_file():
                raise UserFileNotFoundError(f"{path} is a link to {target}, which is not a file")
            yield path, target


def check_paired(files: Mapping[str, Path], kind: str, partners: Mapping[str, Path], partner: str, place: Path) -> None:
    """Checks that each file has a partner with the same key.

    Args:
        files: Paths by key.
        kind: What the files are, in the plural.
        partners: The paths of the partners by key.
        partner: What a partner is, in the singular.
        place: The folder of the partners.

    Raises:
        FileNotFoundError: Names the first file without a partner, and how many files have none.
    """
    alone = [path for key, path in files.items() if key not in partners]
    if alone:
        raise UserFileNotFoundError(
            f"{place} holds no {partner} for {len(alone)} of {len(files)} {kind}, the first is {alone[0]}"
        )
