"""Weights in and out: a teacher from a checkpoint, a student for deployment. Nothing here runs code from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from distill.atomic import atomic_write
from distill.errors import UserError, UserFileNotFoundError

NETWORK_PREFIX = "network."


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of a network, by parameter name.

    Args:
        path: A Lightning checkpoint of :class:`~distill.base.Supervised` or of any distillation method (then its
            student), a ``state_dict`` saved by :func:`torch.save`, or a ``.safetensors`` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, holds more than weights, or holds no network.
    """
    return _network_weights(read_content(Path(path)), Path(path))


def read_content(path: Path, *, mmap: bool = False) -> Any:
    """What a file of weights or a checkpoint holds, read without running code from it.

    Args:
        path: The file.
        mmap: Whether tensors are left on disk until they are used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, or holds more than plain data.
    """
    if not path.is_file():
        raise UserFileNotFoundError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a whole safetensors file: {error}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zipfile(path))
    except UnpicklingError:
        raise UserError(
            f"{path} is not a file of plain weights, and loading anything else could run its code; "
            "save its state_dict with torch.save or as .safetensors"
        ) from None
    except Exception as error:  # of many classes, whatever the bytes of a cut or foreign file lead torch's reader to
        reason = "".join(str(error).splitlines()[:1])
        raise UserError(f"{path} is not a whole checkpoint: {type(error).__name__}: {reason}") from None


def load_network(network: nn.Module, path: str | Path) -> Sequence[str]:
    """Loads the weights of a file into a network that has exactly those parameters and buffers.

    Args:
        network: Changed in place.
        path: As in :func:`load_weights`.

    Returns:
        The names of the classes that the network was trained on, by index, where the file is a checkpoint that has
        them; else nothing.

    Raises:
        FileNotFoundError: As :func:`load_weights`.
        ValueError: As :func:`load_weights`; or names differ (tells the first missing and unexpected one and counts the
            rest) or shapes do.
    """
    content = read_content(Path(path))
    weights = _network_weights(content, Path(path))
    own = network.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    if missing or unexpected:
        differences = [_first_of("lacks", missing), _first_of("has the unexpected", unexpected)]
        raise UserError(f"{path} does not fit {type(network).__name__}: it {' and '.join(filter(None, differences))}")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise UserError(
                f"{path} does not fit {type(network).__name__}: {name} has shape {tuple(weights[name].shape)} in the "
                f"file and {tuple(tensor.shape)} in the network"
            )
    network.load_state_dict(weights)
    return tuple(content["class_names"]) if "class_names" in content and content is not weights else ()


def check_class_names(theirs: Sequence[str], ours: Sequence[str], *, model: str) -> None:
    """Compares the classes that a network was trained on with those of the data; warns where their names differ.

    Args:
        theirs: The network's, by index; empty where they are not known.
        ours: The data's, alike.
        model: What the network comes from, for the message.

    Raises:
        ValueError: They are the same in another order, so that the network's answers would be taken for others.
    """
    if not theirs or not ours or list(theirs) == list(ours):
        return
    if len(theirs) == len(ours):
        at = next(at for at, names in enumerate(zip(theirs, ours, strict=True)) if names[0] != names[1])
        difference = f"class {at} is {theirs[at]!r} there and {ours[at]!r} in the data"
    else:
        difference = f"it knows {len(theirs)} and the data have {len(ours)}"
    if sorted(theirs) == sorted(ours):
        raise UserError(f"the {model} was trained on the same classes in another order: {difference}")
    rank_zero_warn(f"the {model} was trained on other classes: {difference}")


def save_network(network: nn.Module, path: str | Path) -> None:
    """Writes a network's parameters and buffers as ``.safetensors``, whole or not at all."""
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    with atomic_write(path) as draft:
        draft.write_bytes(save(weights))


def looks_untrained(network: nn.Module) -> bool:
    """Whether nothing hints that the network's weights were loaded or trained.

    Hints are eval mode, in which ``from_pretrained`` of Hugging Face leaves a network, and moved BatchNorm statistics,
    as timm's pretrained networks have. A network without parameters has nothing to load.
    """
    moved = any(bool(buffer.any()) for name, buffer in network.named_buffers() if name.endswith("running_mean"))
    return network.training and not moved and any(True for _ in network.parameters())


def _network_weights(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and "pytorch-lightning_version" in content:
        weights = {
            name.removeprefix(NETWORK_PREFIX): tensor
            for name, tensor in content.get("state_dict", {}).items()
            if name.startswith(NETWORK_PREFIX)
        }
        if weights:
            return weights
        raise UserError(f"{path} is a Lightning checkpoint, but of no Supervised or distillation module")
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    raise UserError(f"{path} holds neither a state_dict nor a Lightning checkpoint")


def _first_of(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{verb} {names[0]!r}{rest}"
