"""Fingerprints of networks and data, computed from their content."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from distill.batches import samples_in, tensors_in


def network_fingerprint(network: nn.Module) -> str:
    """A hash of the network's layers with their settings, and of all weights and buffers with their names.

    Settings are public attributes that are plain data, or lists and dicts of plain data. Buffers count even if they are
    not saved in checkpoints. Private attributes and other objects, such as functions, do not count, so a layer can keep
    its last inputs there. A layer that keeps its last inputs in a public list gets another fingerprint after each call.
    This is intended: to take equal networks for different ones is safer than the reverse.
    """
    digest = hashlib.sha256()
    for name, layer in network.named_modules():
        settings = {
            key: value for key, value in vars(layer).items() if key[0] != "_" and key != "training" and _is_plain(value)
        }
        digest.update(f"{name} {type(layer).__name__} {sorted(settings.items())} ".encode())
    for name, values in sorted({**network.state_dict(), **dict(network.named_buffers())}.items()):
        if isinstance(values, Tensor) and not is_lazy(values):
            digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
            digest.update(_bytes(values).data)
    return digest.hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def sample_checksums(inputs: Sequence[Any]) -> NDArray[np.int64]:
    """One checksum per sample, over the bytes of all its inputs.

    Args:
        inputs: The inputs, each ``(N, *)``, a list with tensors for each sample, or a dictionary of these.

    Returns:
        The CRC-32 of each sample, ``(N,)``.
    """
    sums = [0] * samples_in({"": inputs[0]})
    for values in inputs:
        for at, row in zip(range(len(sums)), _bytes_of_rows(values), strict=True):
            sums[at] = zlib.crc32(row.data, sums[at])
    return np.array(sums, np.int64)


def _bytes_of_rows(values: Any) -> Iterable[NDArray[np.uint8]]:
    if isinstance(values, Tensor):
        return _bytes(values).reshape(len(values), -1)
    if isinstance(values, Mapping):
        parts = (_bytes_of_rows(values[name]) for name in sorted(values))
        return (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return (np.concatenate([np.zeros(0, np.uint8), *map(_bytes, tensors_in(sample))]) for sample in values)


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
