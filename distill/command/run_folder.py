"""A run's folder ``logs/<name>/version_N``, and the checkpoints in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.checkpoint import read_content
from distill.errors import UserError, UserOSError
from distill.resume.metrics_table import is_first_rank, version_of


def latest_checkpoint(runs: Path, version: str | None, which: str) -> Path | None:
    """The newest checkpoint ``best`` or ``last`` in a folder of runs, or the one of the given version."""
    found = runs.glob(f"{version or '*'}/checkpoints/{which}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def check_checkpoint(path: Path, *, resumes: bool) -> dict[str, Any]:
    """The content of a checkpoint of a run, whose tensors stay on disk until they are used.

    Args:
        path: The file.
        resumes: Whether a fit resumes from it; then it must hold more than weights.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a checkpoint, is damaged, or holds weights only although a fit resumes.
    """
    content = read_content(path, mmap=True)
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise UserError(f"{path} is not a checkpoint of a run")
    if resumes and "optimizer_states" not in content:
        raise UserError(f"{path} holds weights only; a fit resumes from last.ckpt")
    return content


def check_epochs(content: Mapping[str, Any], path: Path, max_epochs: int | None) -> None:
    """Raises an error if a checkpoint has trained more epochs than a fit may have.

    Args:
        content: Of the checkpoint.
        path: Its path, for the message.
        max_epochs: The limit of the fit, if it has one; -1 is none.

    Raises:
        ValueError: The checkpoint has trained more epochs.
    """
    done = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if max_epochs is not None and 0 <= max_epochs < done:
        raise UserError(f"{path} has trained {done} epochs: give trainer.max_epochs {done} or more, not {max_epochs}")


def path_within(folder: Path, name: str, argument: str) -> Path:
    """The path with this name inside a folder.

    Args:
        folder: The folder.
        name: A relative path, usually one name.
        argument: The argument that holds the name, for the message.

    Raises:
        ValueError: The path is the folder itself, or lies outside it.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
        raise UserError(f"{argument} must be the name of a folder in {folder}, got {name!r}")
    return folder / name


def check_unused(folder: Path) -> None:
    """Raises an error if a fit would overwrite a run.

    Raises:
        ValueError: The folder holds the configuration or checkpoints of a fit.
    """
    used = (folder / "fit.yaml").is_file() or any((folder / "checkpoints").glob("*.ckpt"))
    if used and is_first_rank():  # the other processes start when the first one has made the folder
        raise UserError(
            f"{folder} holds a run already: choose another --version, resume it with --ckpt_path last, or delete it"
        )


def run_folder(runs: Path, version: str | None, ckpt_path: str | Path | None) -> Path:
    """The folder that a command writes to.

    Args:
        runs: The folder of all runs of one name.
        version: The name of the run's folder in it, if given.
        ckpt_path: The checkpoint that is resumed or evaluated, if any.

    Returns:
        ``runs/version``; or the folder of the run that wrote the checkpoint; or a new ``runs/version_N``. The new
        folder is created here, so that two runs that start at the same time get two folders.

    Raises:
        ValueError: The version lies outside the folder.
        OSError: A file is where the folder should be, or it cannot be made.
    """
    path = runs if version is None else path_within(runs, version, "version")
    if (file := next((place for place in (path, *path.parents) if place.is_file()), None)) is not None:
        raise UserOSError(f"{file} is a file, but the folder of the runs should be there: choose another logs_dir")
    if version is not None:
        return path
    if ckpt_path is not None and Path(ckpt_path).parent.name == "checkpoints":
        return Path(ckpt_path).absolute().parents[1]
    taken = [version_of(path) for path in runs.glob("version_*")]
    number = max((version for version in taken if isinstance(version, int)), default=-1) + 1
    while is_first_rank():
        try:
            (runs / f"version_{number}").mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserOSError(f"{runs} cannot be made ({error.strerror}): choose another logs_dir") from None
    return runs / f"version_{number}"
