"""Gradient checkpointing in chunks: the memory that a loss needs beside its inputs does not grow with the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

CHUNK_NUMEL = 2**22
"""Numbers in the first tensor of one chunk: 16 MiB of float32, about one sample of 19 classes at 512 x 512."""


def in_chunks(
    function: Callable[..., Tensor], *tensors: Tensor, shared: tuple[Tensor, ...] = (), rows: int | None = None
) -> Tensor:
    """Applies a function to a few rows at a time, and saves only its inputs for the backward pass.

    A divergence of logits ``(N, C, *)`` makes several tensors of that size and returns one of ``(N, *)``. Here only the
    tensors of one chunk exist at a time, and the backward pass computes them again. On segmentation logits this is also
    faster, because a chunk stays in the cache. The function is called directly if one chunk holds all rows.

    Args:
        function: Is called with rows of ``tensors``, then with ``shared``. It must treat each row on its own and draw
            no random numbers.
        tensors: What is split into rows, ``(N, *)``, with the same N.
        shared: What every call gets whole.
        rows: How many rows a chunk has; by default as many as hold 2^22 numbers of the first tensor, at least one.

    Returns:
        What the function returns, ``(N, *)``.
    """
    first = tensors[0]
    if rows is None:
        rows = max(1, CHUNK_NUMEL * len(first) // max(1, first.numel()))
    if len(first) <= rows:
        return function(*tensors, *shared)
    values: Tensor = _Chunked.apply(function, rows, len(tensors), *tensors, *shared)
    return values


class _Chunked(torch.autograd.Function):
    # torch.utils.checkpoint does the same, but its first call takes a second and 150 MB to load the compiler
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], rows: int, split: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.rows, ctx.split = function, rows, split
        device = tensors[0].device.type
        ctx.autocast = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }
        ctx.save_for_backward(*tensors)
        chunks = zip(*(tensor.split(rows) for tensor in tensors[:split]), strict=True)
        return torch.cat([function(*chunk, *tensors[split:]) for chunk in chunks])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # for a second derivative: all rows at once
            return None, None, None, *_gradients(ctx, tensors, needed, gradient, create_graph=True)
        totals = [torch.zeros_like(tensor) if need else None for tensor, need in zip(tensors, needed, strict=True)]
        for start in range(0, len(gradient), ctx.rows):
            chunk = slice(start, start + ctx.rows)
            parts = [chunk if i < ctx.split else slice(None) for i in range(len(tensors))]
            inputs = [
                tensor[part].detach().requires_grad_(need)
                for tensor, part, need in zip(tensors, parts, needed, strict=True)
            ]
            slopes = _gradients(ctx, inputs, needed, gradient[chunk])
            for total, part, slope in zip(totals, parts, slopes, strict=True):
                if total is not None and slope is not None:
                    total[part] += slope
        return None, None, None, *totals


def _gradients(
    ctx: Any, inputs: Sequence[Tensor], needed: Sequence[bool], gradient: Tensor, create_graph: bool = False
) -> list[Tensor | None]:
    """The gradients of the function's value at these inputs, None for an input that needs none."""
    with torch.enable_grad(), torch.autocast(**ctx.autocast):
        values = ctx.function(*inputs)
    leaves = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
    slopes = iter(torch.autograd.grad(values, leaves, gradient, create_graph=create_graph))
    return [next(slopes) if need else None for need in needed]
