"""Dense logits a few samples at a time: what a loss needs beside its inputs then does not grow with the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PART_NUMEL = 2**22
"""Numbers in the first tensor of one part: 16 MiB of float32, about a sample of 19 classes at 512 x 512."""


def by_parts(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Applies ``function`` to consecutive samples at a time, and remembers nothing but its inputs for the gradient.

    A divergence of ``(N, C, *)`` logits makes several tensors of their size to return one of ``(N, *)``. Here only
    those of one part exist at a time; the backward pass makes them again. On segmentation logits that is faster, too,
    as a part stays in the cache. Inputs that fit into one part are handed to ``function`` as they are.

    Args:
        function: Treats every sample on its own, and draws no random numbers.
        tensors: Its arguments, ``(N, *)``, with the same N.

    Returns:
        What ``function`` returns, ``(N, *)``.
    """
    first = tensors[0]
    samples = max(1, PART_NUMEL * len(first) // max(1, first.numel()))
    if len(first) <= samples:
        return function(*tensors)
    parts = zip(*(torch.split(tensor, samples) for tensor in tensors), strict=True)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return torch.cat([function(*part) for part in parts])
    return torch.cat(
        [
            checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
            for part in parts
        ]
    )
