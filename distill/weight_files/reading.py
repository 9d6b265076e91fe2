"""Reads files of weights: one file, several shards, a folder, or a name of the Hub. Nothing runs code from a file."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distill.errors import UserError, UserFileNotFoundError
from distill.weight_files.hub import PATTERNS, SCHEME, HubName, hub_name, snapshot
from distill.weight_files.numbers import STAND_INS

HARMLESS = [Namespace, *STAND_INS]
"""What may stand beside weights: the arguments of the script that wrote them, and numbers of NumPy."""

INDEX = ".index.json"
"""How the name of a file ends that says in which shard each tensor lies."""

NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The files of weights that a folder of Hugging Face may hold, in the order in which they are looked for."""

ENDINGS = (".bin", ".ckpt", ".json", ".pkl", ".pt", ".pth", ".safetensors", ".tar")
"""How the names of files of weights end; a name without them may be that of a repository."""


def read_weights(path: str | Path) -> Any:
    """The content of a file of weights, of all its shards, of a folder, or of a repository of the Hub.

    Raises:
        FileNotFoundError: There is no such file, or a shard is missing.
        ValueError: As in :func:`read_content`; or an index is damaged, or leads out of its folder.
    """
    file = weight_file(path)
    return _joined(file) if file.name.endswith(INDEX) else read_content(file)


def read_content(path: Path, *, mmap: bool = False) -> Any:
    """The content of a checkpoint or of a file of weights, read without running code from it.

    Args:
        path: The file.
        mmap: Whether tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is truncated, or holds more than plain data.
    """
    if not path.is_file():
        raise UserFileNotFoundError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a whole safetensors file: {error}") from None
    with path.open("rb") as file:
        start = file.read(1)
    if not start:
        raise UserError(f"{path} is not a file of weights: it is empty")
    if archive := _other_archive(path):
        raise UserError(f"{path} is {archive}")
    if start not in (b"P", b"\x80"):  # of a zip archive, or of a pickle
        raise UserError(
            f"{path} is not a file of plain weights, but a text or another format: give a state_dict that torch.save "
            "wrote, a Lightning checkpoint, or a .safetensors file"
        )
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zipfile(path))
    except UnpicklingError:
        raise UserError(
            f"{path} is not a file of plain weights, and loading anything else could run its code{_named(path)}: where "
            "you trust it, load it with torch.load(weights_only=False), and save its state_dict with torch.save or as "
            ".safetensors"
        ) from None
    except Exception as error:  # a truncated or foreign file makes torch's reader raise errors of many classes
        reason = "".join(str(error).splitlines()[:1])
        raise UserError(f"{path} is not a whole checkpoint: {type(error).__name__}: {reason}") from None


def weight_file(path: str | Path) -> Path:
    """The file of weights, or the index of its shards, to which a path, a folder or a name of the Hub leads.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The name is none of the Hub.
    """
    if is_of_hub(path):
        return _of_hub(hub_name(str(path)))
    if re.match(r"\w+:/+\w", str(path)) and not re.match(r"\w:", str(path)):  # not the drive of Windows
        raise UserFileNotFoundError(f"{path} is an address: download the file first, and give its path")
    path = Path(path).expanduser()
    if path.is_dir() and (found := _in_folder(path)):
        return found
    if path.is_dir():
        raise UserFileNotFoundError(f"there is no checkpoint {path}: it is a folder with none of {', '.join(NAMES)}")
    if not path.is_file():
        repository = re.fullmatch(r"[\w-]+/[\w.-]+", str(path)) and path.suffix not in ENDINGS
        hint = f"; for the repository of this name on the Hub, write {SCHEME}{path}" if repository else ""
        raise UserFileNotFoundError(f"there is no checkpoint {path}{hint}")
    return path


def is_of_hub(path: str | Path) -> bool:
    """Whether a path is a name of the Hub, such as ``hf://timm/resnet18.a1_in1k``."""
    return str(path).startswith(SCHEME)


def files_of(path: str | Path) -> list[Path]:
    """All files on this machine that the weights of a path consist of; none where a file is missing or damaged."""
    try:
        file = None if is_of_hub(path) else weight_file(path)
        return [] if file is None else [file, *(shards(file) if file.name.endswith(INDEX) else ())]
    except (OSError, ValueError):  # the one who loads them says so
        return []


def shards(index: Path) -> dict[Path, list[str]]:
    """The names of the tensors by the file that holds them, as an index says.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The index is damaged, or leads out of its folder.
    """
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        if not places or not all(isinstance(text, str) for pair in places.items() for text in pair):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{index} is not an index of shards: its weight_map must name the file of each tensor"
        ) from None
    found: dict[Path, list[str]] = {}
    for name, file in places.items():
        if {"..", ""} & set(file.replace("\\", "/").split("/")) or ":" in file:  # it goes up, or starts at a root
            raise UserError(f"{index} names the shard {file!r}, which does not lie in its folder")
        found.setdefault(index.parent / file, []).append(name)
    if missing := [file.name for file in found if not file.is_file()]:
        raise UserFileNotFoundError(
            f"the shard {missing[0]} that {index} names does not exist: {len(missing)} of {len(found)} are missing"
        )
    return found


def _other_archive(path: Path) -> str:
    """What a zip archive is and what to do, if torch.save did not write it."""
    if not is_zipfile(path):
        return ""
    with ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "an archive of TorchScript, which holds code: load it with torch.jit.load, and save its state_dict with "
            "torch.save or as .safetensors"
        )
    if names and all(name.endswith(".npy") for name in names):
        return (
            "an archive of NumPy: load it with numpy.load, and save its arrays as a state_dict of tensors with "
            "torch.save or as .safetensors"
        )
    return ""


def _joined(index: Path) -> dict[str, Tensor]:
    return dict(_tensors(index))


def _tensors(index: Path) -> Iterator[tuple[str, Tensor]]:
    for file, names in shards(index).items():
        content = read_content(file)
        for name in names:
            if not isinstance(content, dict) or not isinstance(content.get(name), Tensor):
                raise UserError(f"{file} lacks the tensor {name!r}, which {index.name} says it holds")
            yield name, content[name]


def _in_folder(folder: Path) -> Path | None:
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def _of_hub(name: HubName) -> Path:
    wanted = PATTERNS if name.file is None else ([name.file, f"{name.file.partition('.')[0]}-*-of-*"],)
    for online in (False, True):
        for patterns in wanted:
            folder = snapshot(name, patterns, online=online)
            file = folder and (_in_folder(folder) if name.file is None else folder / name.file)
            if file and file.is_file() and (online or _is_whole(file)):
                return file
    raise UserFileNotFoundError(f"{name} has no {name.file or ' or '.join(NAMES[::2])}: give hf://owner/name/file")


def _is_whole(file: Path) -> bool:
    """Whether all shards are there; a download may have been stopped."""
    return not file.name.endswith(INDEX) or bool(files_of(file))


def _named(path: Path) -> str:
    """The first class or function that a file names, in brackets, if torch can tell."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of the old format, or damaged
        return ""
    return f" (it names {names[0]})" if names else ""
