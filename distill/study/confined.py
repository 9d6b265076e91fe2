"""Keeps a study's file, which may be a stranger's, from writing outside of the study's folder and from running code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

CACHES = re.compile(r"cache_(teacher|dir)")
"""Arguments of models and data that name a folder to write to."""

FOLDERS = re.compile(r"(?!sub_dir)(.*_)?(dir|dirpath|path|folder|directory)")
"""The same of the parts of a trainer; ``sub_dir`` is relative to another folder."""

LEADS_OUT = re.compile(r"[/\\~]|(?!https?:)\w+:.*[/\\]|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)
"""A path that is absolute, starts at a home folder, names a scheme or a drive, or goes up."""

CHOSEN_BY_STUDY = ("trainer.default_root_dir",)

LIGHTNINGS_OWN = {"trainer.strategy.init_args.nvme_path": "/local_nvme"}
"""Scratch space that DeepSpeedStrategy names by default and uses only on request."""

EVERY_CLUSTER = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")

SLURM = (
    *("partition", "account", "qos", "constraint", "time", "mem", "mem_per_cpu", "mem_per_gpu", "gpus_per_task"),
    *("cpus_per_gpu", "gres", "nodelist", "exclude", "exclusive", "array_parallelism", "comment"),
)
"""Parameters of SLURM jobs that say where, when and on what they run, and hold no commands."""


def check_confined(config: Namespace, folder: Path) -> None:
    """Refuses a configuration that names a place to write to outside of a folder.

    It checks folders by the names of their arguments, and all other strings of the trainer, since a ``filename`` can go
    up as well. Relative paths start in the folder where the command runs.

    Args:
        config: As the command line parses it, with the defaults of all classes.
        folder: The study's.

    Raises:
        ValueError: Names the argument and its value.
    """
    inside = folder.resolve()
    for key, value in _strings(config):
        part, name = key.partition(".")[0], key.rpartition(".")[2]
        if name == "class_path" or key in CHOSEN_BY_STUDY or part not in ("model", "data", "trainer"):
            continue
        if LIGHTNINGS_OWN.get(key) == value:
            continue
        if (FOLDERS if part == "trainer" else CACHES).fullmatch(name):
            out = not Path(value).resolve().is_relative_to(inside)
        else:
            out = part == "trainer" and LEADS_OUT.match(value) is not None
        if out:
            raise ValueError(f"{key} must lie in the study's folder {folder}, got {value!r}")


def check_job_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuses parameters of a cluster's jobs that could run commands.

    Args:
        parameters: By submitit's names.

    Raises:
        ValueError: A parameter is not known to be harmless, or its value is not a number or one line of text.
    """
    allowed = (*EVERY_CLUSTER, *(f"slurm_{name}" for name in (*EVERY_CLUSTER, *SLURM)))
    for name, value in parameters.items():
        if name not in allowed:
            raise ValueError(f"slurm.{name} cannot be set by a study, only {', '.join(allowed)} can")
        if not (value is None or isinstance(value, (int, float)) or (isinstance(value, str) and value.isprintable())):
            raise ValueError(f"slurm.{name} must be a number or one line of text, got {value!r}")


def _strings(part: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(part, Namespace):
        part = vars(part)
    if isinstance(part, (list, tuple)):
        part = {str(number): item for number, item in enumerate(part)}
    if isinstance(part, Mapping):
        for name, item in part.items():
            yield from _strings(item, f"{key}.{name}" if key else str(name))
    elif isinstance(part, (str, PathLike)):
        yield key, str(part)
