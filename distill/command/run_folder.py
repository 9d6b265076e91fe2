"""A run's folder ``logs/<name>/version_N``, and the checkpoints in it."""

from __future__ import annotations

from pathlib import Path

from distill.checkpoint import read_content
from distill.errors import UserError
from distill.resume.metrics_table import is_first_rank, version_of


def latest_checkpoint(runs: Path, version: str | None, which: str) -> Path | None:
    """The checkpoint ``best`` or ``last`` of the newest run in a folder of runs, or of the one version named."""
    found = runs.glob(f"{version or 'version_*'}/checkpoints/{which}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def check_checkpoint(path: Path, *, continues: bool) -> None:
    """Refuses what is no checkpoint of a run.

    Args:
        path: The file.
        continues: Whether a fit is to go on from it, which takes more than weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, or is damaged, or holds too little.
    """
    content = read_content(path, mmap=True)
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise UserError(f"{path} is no checkpoint of a run")
    if continues and "optimizer_states" not in content:
        raise UserError(f"{path} holds weights only, but a fit goes on from all that last.ckpt holds")


def path_within(folder: Path, name: str, argument: str) -> Path:
    """The path of that name below a folder, which it cannot leave.

    Args:
        folder: The folder.
        name: A relative path, mostly one name.
        argument: What the name was given as, for the error.

    Raises:
        ValueError: The name is that of the folder itself or of something outside.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
        raise UserError(f"{argument} must be the name of a folder in {folder}, got {name!r}")
    return folder / name


def run_folder(runs: Path, version: str | None, ckpt_path: str | Path | None) -> Path:
    """The folder that a command writes to.

    Args:
        runs: The folder of all runs of one name.
        version: The run's own folder in it, if it is named.
        ckpt_path: The checkpoint that is continued or evaluated, if any.

    Returns:
        ``runs/version``; or the folder of the run to which the checkpoint belongs; or a fresh ``runs/version_N``,
        which is made here, so that two runs that start at once do not share one.

    Raises:
        ValueError: The version leads out of the folder.
    """
    if version is not None:
        return path_within(runs, version, "version")
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
    return runs / f"version_{number}"
