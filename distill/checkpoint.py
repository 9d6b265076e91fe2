"""Loads the weights of networks and saves a student for deployment. Nothing here runs code from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors.torch import save
from torch import Tensor, nn

from distill.atomic import atomic_write
from distill.errors import UserError
from distill.weight_files.forms import (
    NETWORK_PREFIX,
    chosen_table,
    contents,
    fitting_readings,
    is_lightning,
    is_own,
    misfit,
)
from distill.weight_files.reading import files_of, is_of_hub, read_content, read_weights

__all__ = [
    "Weights",
    "check_class_names",
    "check_fits",
    "load_network",
    "load_weights",
    "looks_untrained",
    "path_of",
    "read_content",
    "save_network",
    "weights_exist",
]


@dataclass(frozen=True)
class Weights:
    """Weights in a file that holds several sets of them.

    A plain path is enough where one part of the file has the names and shapes of the network. In YAML::

        teacher_checkpoint: {path: run.ckpt, key: state_dict, prefix: net.}

    Args:
        path: A file, a folder of Hugging Face, an index of shards, or a name of the Hub; see :func:`load_network`.
        key: Where the weights lie in the file, with dots between keys: ``state_dict`` or ``ema.state_dict``. An empty
            text stands for the file itself.
        prefix: What stands before the names of the weights, such as ``net.``; other names are left out. An empty text
            stands for nothing.
    """

    path: str | Path
    key: str | None = None
    prefix: str | None = None


def path_of(source: str | Path | Weights | Mapping[str, Any]) -> str | Path:
    """The path of a file of weights, given as an argument or as it stands in a configuration."""
    if isinstance(source, Weights):
        return source.path
    return source if isinstance(source, (str, Path)) else source["path"]


def weights_exist(source: str | Path | Weights | Mapping[str, Any]) -> bool:
    """Whether there is a file at the place of weights; a name of the Hub counts as one."""
    path = path_of(source)
    return is_of_hub(path) or bool(files_of(path))


def load_weights(source: str | Path | Weights) -> dict[str, Tensor]:
    """The weights of a network, by parameter name.

    Without a network to compare with, a file of another form needs :class:`Weights` with key and prefix.

    Args:
        source: A Lightning checkpoint of :class:`~distill.base.Supervised` or of any distillation method (its student
            is loaded), a ``state_dict`` saved by :func:`torch.save`, or a ``.safetensors`` file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is truncated, holds more than weights, or holds no network.
    """
    path = path_of(source)
    content = read_weights(path)
    if isinstance(source, Weights) and (source.key is not None or source.prefix is not None):
        return chosen_table(content, source.key, source.prefix, str(path))
    if is_lightning(content):
        return _own_network(content, path)
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    raise UserError(f"{path} holds neither a state_dict nor a Lightning checkpoint: it holds {contents(content)}")


def load_network(network: nn.Module, source: str | Path | Weights, option: str = "") -> Sequence[str]:
    """Loads the weights of a file into a network that has exactly those parameters and buffers.

    The names and shapes of the network decide where in the file its weights are. What is unwrapped is said in one line.

    Args:
        network: Changed in place.
        source: A checkpoint of this library, of another LightningModule, of timm or torchvision, a ``state_dict``,
            a ``.safetensors`` file, an index of shards, a folder of Hugging Face, or ``hf://owner/name`` on the Hub;
            or :class:`Weights` where several parts of the file fit.
        option: The argument that gave it, for messages.

    Returns:
        The names of the classes that the network was trained on, by index, if the file is a checkpoint that has
        them; otherwise an empty tuple.

    Raises:
        FileNotFoundError: As in :func:`load_weights`; or a shard is missing, or the Hub has no such file.
        ValueError: The file is damaged or holds more than weights. Or nothing in it has the names and shapes of the
            network: the message gives the first missing and the first unexpected name, and counts the others. Or
            several things have. Or the weights are quantized, complex, sparse, NaN, without values or all zero.
    """
    try:
        content = read_weights(path_of(source))
        return _load(network, content, source)
    except UserError as error:
        raise UserError(f"the {option} {error}" if option else str(error)) from None


def _load(network: nn.Module, content: Any, source: str | Path | Weights) -> Sequence[str]:
    path = str(path_of(source))
    key, prefix = (source.key, source.prefix) if isinstance(source, Weights) else (None, None)
    expected = network.state_dict()
    reading, *others = fitting_readings(content, expected, key, prefix, source=path, network=type(network).__name__)
    weights = reading.weights(expected)
    _check_numbers(weights, expected, path)
    if reading.changes and (others or not is_own(content, reading)):
        rank_zero_info(f"{path}: {reading.changes}")
    expected.update(weights)  # keeps the versions of the network's layers, which its own names and shapes have
    network.load_state_dict(expected)
    names = content.get("class_names") if isinstance(content, Mapping) and reading.table.key else None
    return tuple(names) if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) else ()


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
    if difference := misfit(weights, expected):
        raise UserError(f"{source} does not fit {network}: {difference}")


def _check_numbers(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuses weights that have no meaning in a network of real numbers."""
    for name, tensor in expected.items():
        held = weights[name]
        if held.is_meta:
            raise UserError(f"{path} holds {name!r} without values: it was saved from the device meta")
        if held.layout != torch.strided:
            raise UserError(f"{path} holds {name!r} as a sparse tensor: save the weights after to_dense()")
        if held.is_complex() and not tensor.is_complex():
            raise UserError(f"{path} holds complex numbers in {name!r}, but those of the network are real")
        if tensor.is_floating_point() and (
            held.dtype.itemsize == 1 or not (held.is_floating_point() or held.is_complex())
        ):
            raise UserError(
                f"{path} holds {name!r} as {str(held.dtype).removeprefix('torch.')}, which has no meaning without its "
                "scale: save the weights as float32, bfloat16 or float16"
            )
        if held.is_floating_point() and bool(held.isnan().any()):
            raise UserError(f"{path} holds NaN in {name!r}: take a checkpoint from before the training diverged")
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


def _own_network(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    found = content.get("state_dict", {}).items()
    own = {name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in found if name.startswith(NETWORK_PREFIX)}
    if not own:
        raise UserError(f"{path} is a Lightning checkpoint, but not of a Supervised or a distillation module")
    return own
