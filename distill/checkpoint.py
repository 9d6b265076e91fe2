"""Loads a teacher's weights and saves a student for deployment. Nothing here runs code from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from distill.atomic import atomic_write
from distill.errors import UserError, UserFileNotFoundError

NETWORK_PREFIX = "network."


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of a network, by parameter name.

    Args:
        path: A Lightning checkpoint of :class:`~distill.base.Supervised` or of any distillation method (its student
            is loaded), a ``state_dict`` saved by :func:`torch.save`, or a ``.safetensors`` file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is truncated, holds more than weights, or holds no network.
    """
    return _network_weights(read_content(Path(path)), Path(path))


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
    if start not in (b"", b"P", b"\x80"):  # of a zip archive, or of a pickle
        raise UserError(
            f"{path} is not a file of plain weights, but a text or another format: give a state_dict that torch.save "
            "wrote, a Lightning checkpoint, or a .safetensors file"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zipfile(path))
    except UnpicklingError:
        raise UserError(
            f"{path} is not a file of plain weights, and loading anything else could run its code; "
            "save its state_dict with torch.save or as .safetensors"
        ) from None
    except Exception as error:  # a truncated or foreign file makes torch's reader raise errors of many classes
        reason = "".join(str(error).splitlines()[:1])
        raise UserError(f"{path} is not a whole checkpoint: {type(error).__name__}: {reason}") from None


def load_network(network: nn.Module, path: str | Path) -> Sequence[str]:
    """Loads the weights of a file into a network that has exactly those parameters and buffers.

    Args:
        network: Changed in place.
        path: As in :func:`load_weights`.

    Returns:
        The names of the classes that the network was trained on, by index, if the file is a checkpoint that has
        them; otherwise an empty tuple.

    Raises:
        FileNotFoundError: As in :func:`load_weights`.
        ValueError: As in :func:`load_weights`; or names or shapes differ. The message gives the first missing and the
            first unexpected name, and counts the others. Or the weights are quantized, complex or all zero.
    """
    content = read_content(Path(path))
    weights = _network_weights(content, Path(path))
    expected = network.state_dict()
    check_fits(weights, expected, str(path), type(network).__name__)
    _check_numbers(weights, expected, path)
    network.load_state_dict(weights)
    return tuple(content["class_names"]) if "class_names" in content and content is not weights else ()


def check_fits(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, network: str) -> None:
    """Compares the names and shapes of saved weights with those of a network or module.

    Args:
        weights: The saved weights.
        expected: Those of the network; a lazy or an empty one takes its shape from the saved one.
        source: Where the weights come from, for the message.
        network: The name of the network, for the message.

    Raises:
        ValueError: Names or shapes differ. The message gives the first missing and the first unexpected name, and
            counts the others.
    """
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        differences = [_first_of("lacks", missing), _first_of("has the unexpected", unexpected)]
        raise UserError(f"{source} does not fit {network}: it {' and '.join(filter(None, differences))}")
    for name, tensor in expected.items():
        if not is_lazy(tensor) and tensor.numel() and tensor.shape != weights[name].shape:
            raise UserError(
                f"{source} does not fit {network}: {name} has shape {tuple(weights[name].shape)} in the file and "
                f"{tuple(tensor.shape)} in the network"
            )


def _check_numbers(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuses weights that would lose their meaning in a network of real numbers, without an error of torch."""
    for name, tensor in expected.items():
        held = weights[name]
        if held.is_complex() and not tensor.is_complex():
            raise UserError(f"{path} holds complex numbers in {name!r}, but those of the network are real")
        if tensor.is_floating_point() and (
            held.dtype.itemsize == 1 or not (held.is_floating_point() or held.is_complex())
        ):
            raise UserError(
                f"{path} holds {name!r} as {str(held.dtype).removeprefix('torch.')}, which has no meaning without its "
                "scale: save the weights as float32, bfloat16 or float16"
            )
    trained = [tensor for name, tensor in weights.items() if tensor.is_floating_point() and tensor.numel()]
    if trained and not any(bool(tensor.any()) for tensor in trained):
        raise UserError(f"{path} holds zeros only: it was saved before the network had its weights")


def check_class_names(network: Sequence[str], data: Sequence[str], *, model: str, of_teacher: bool = False) -> None:
    """Compares the classes that a network was trained on with the classes of the data; warns if the names differ.

    Args:
        network: The names of the network's classes, by index; empty if they are unknown.
        data: The names of the data's classes, by index; empty if they are unknown.
        model: The source of the network, for the message.
        of_teacher: Whether the network is a teacher, whose predictions ``teacher_classes`` can bring to another order.

    Raises:
        ValueError: The classes are the same in another order, so that predictions would be read as other classes.
    """
    if not network or not data or list(network) == list(data):
        return
    if len(network) == len(data):
        index = next(index for index, names in enumerate(zip(network, data, strict=True)) if names[0] != names[1])
        difference = f"class {index} is {network[index]!r} there and {data[index]!r} in the data"
    else:
        difference = f"it knows {len(network)} and the data have {len(data)}"
    if sorted(network) == sorted(data):
        order = [list(data).index(name) for name in network]
        raise UserError(
            f"the {model} was trained on the same classes in another order: {difference}"
            + (f"; teacher_classes: {order} brings its predictions to the order of the data" if of_teacher else "")
        )
    rank_zero_warn(f"the {model} was trained on other classes: {difference}")


def save_network(network: nn.Module, path: str | Path) -> None:
    """Writes a network's parameters and buffers as ``.safetensors``, whole or not at all."""
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    with atomic_write(path) as draft:
        draft.write_bytes(save(weights))


def looks_untrained(network: nn.Module) -> bool:
    """Whether the network shows no sign that its weights were loaded or trained.

    One sign is eval mode: ``from_pretrained`` of Hugging Face returns networks in that mode. The other is BatchNorm
    statistics that differ from their initial values, as in timm's pretrained networks. A network without parameters
    has nothing to load.
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
        raise UserError(f"{path} is a Lightning checkpoint, but not of a Supervised or a distillation module")
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    raise UserError(f"{path} holds neither a state_dict nor a Lightning checkpoint")


def _first_of(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{verb} {names[0]!r}{rest}"
