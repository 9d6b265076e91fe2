"""Tells networks and data apart by what they hold."""

from __future__ import annotations

import hashlib
import inspect
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def network_fingerprint(network: nn.Module) -> str:
    """A hash of the network's layers with their settings, and of all weights and buffers with their names.

    Settings are public attributes of plain data. A list or a dict is one only where the constructor takes it by that
    name, as it may else be what a layer keeps of the inputs that it saw. Buffers count whether a checkpoint has them or
    not.
    """
    digest = hashlib.sha256()
    for name, layer in network.named_modules():
        arguments = _constructor_arguments(type(layer))
        settings = {
            key: value
            for key, value in vars(layer).items()
            if key[0] != "_" and key != "training" and _is_plain(value, mutable=key in arguments)
        }
        digest.update(f"{name} {type(layer).__name__} {sorted(settings.items())} ".encode())
    for name, values in sorted({**network.state_dict(), **dict(network.named_buffers())}.items()):
        if isinstance(values, Tensor) and not is_lazy(values):
            digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
            digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _constructor_arguments(kind: type) -> set[str]:
    """The names of what the constructors of a class and of its bases take."""
    constructors = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    return {name for constructor in constructors for name in inspect.signature(constructor).parameters}


def _is_plain(value: Any, *, mutable: bool) -> bool:
    if isinstance(value, dict):
        return mutable and all(isinstance(key, str) and _is_plain(item, mutable=True) for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return (mutable or isinstance(value, tuple)) and all(_is_plain(item, mutable=mutable) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def sample_checksums(inputs: Sequence[Tensor]) -> NDArray[np.int64]:
    """One number a sample, that of the bytes of all its inputs.

    Args:
        inputs: ``(N, *)`` each.

    Returns:
        CRC-32, ``(N,)``.
    """
    count = len(inputs[0])
    sums = [0] * count
    for values in inputs:
        rows = values.detach().cpu().contiguous().reshape(count, -1).view(torch.uint8).numpy()
        sums = [zlib.crc32(row.data, sum_) for row, sum_ in zip(rows, sums, strict=True)]
    return np.array(sums, np.int64)
