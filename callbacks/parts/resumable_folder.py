"""A folder of predictions that a stopped run continues: whole files only, with a description of what wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch import Trainer

from datamodules import PairedDataModule
from datamodules.reading.responses import read_description
from distill.atomic import atomic_write
from distill.errors import UserError

LONGEST_PART = 220
"""Bytes of a name of a file; file systems take 255, and a suffix and the mark of a draft come behind it."""


class ResumableFolder:
    """A folder with files for each sample, and a JSON file that describes the network and the form of the files.

    Args:
        path: The folder.
        description: The name of the JSON file.
        content: What the folder holds, for messages.
    """

    def __init__(self, path: Path, description: str, content: str) -> None:
        self.path = path
        self.description = description
        self.content = content
        self._limited: PairedDataModule | None = None

    def read(self) -> dict[str, Any] | None:
        """The description; ``None`` if there is none.

        Raises:
            ValueError: The folder is a file or holds files without a description, or the description is damaged.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: give a folder for the {self.content}")
        description = read_description(self.path, self.description)
        if description is None and self._holds_files():
            # another process may have written it in between
            description = read_description(self.path, self.description)
            if description is not None:
                return description
            raise UserError(
                f"{self.path} holds files, but no {self.description} to say which network wrote them: give another "
                "folder"
            )
        return description

    def skip(self, trainer: Trainer, data: PairedDataModule, names: Sequence[str], done: Callable[[int], bool]) -> None:
        """Limits ``predict`` to the samples whose files are missing.

        Args:
            trainer: The trainer.
            data: The data module.
            names: The names of all samples to predict, by position.
            done: Whether the sample at a position has all its files.
        """
        present: list[int] = []
        missing: list[int] = []
        for position in range(len(names)):
            (present if done(position) else missing).append(position)
        # each process needs a sample
        data.predict_only(missing + present[: max(trainer.world_size - len(missing), 0)])
        self._limited = data

    def release(self) -> None:
        """Lets the data module predict on all samples again."""
        if self._limited is not None:
            self._limited.predict_only(None)
            self._limited = None

    def describe(self, description: Mapping[str, Any]) -> None:
        """Writes the description, or compares it with that of an earlier run.

        Raises:
            ValueError: An earlier run wrote the folder with another network or in another form.
        """
        earlier = self.read()
        if earlier is None:
            with atomic_write(self.path / self.description) as draft:
                draft.write_text(json.dumps(description, indent=2) + "\n")
            return
        for key, value in description.items():
            if earlier.get(key) != value:
                raise UserError(
                    f"{self.path / self.description} says {key} {earlier.get(key)!r}, but this run would write "
                    f"{value!r}: give another folder, or the network and the arguments that wrote these {self.content}"
                )

    def _holds_files(self) -> bool:
        return self.path.is_dir() and any(not path.name.startswith(".") for path in self.path.iterdir())


def check_inside(name: str) -> str:
    """The name of a sample in its shortest form, ``a/b`` for ``a//./b``, if its files lie inside their folder.

    Raises:
        ValueError: The name is empty, leads out of the folder, or is none that a file can have.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise UserError(f"the name {name!r} of a sample should be a path inside a folder, such as 'drive_1/000012'")
    longest = max(path.parts, key=lambda part: len(part.encode()))
    if "\0" in name or len(longest.encode()) > LONGEST_PART:
        raise UserError(
            f"the name {name[:60]!r} of a sample cannot be the name of a file: use at most {LONGEST_PART} bytes "
            "between slashes, and no zero byte"
        )
    return str(path)
