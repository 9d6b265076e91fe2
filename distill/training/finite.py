"""Stops a fit at the first loss that is NaN or infinite, before the optimiser takes a step with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.outputs import Batch

NAMED = 8
"""So many samples are named, and the others counted."""


class _Watched(NamedTuple):
    finite: Tensor
    copied: torch.cuda.Event | None
    loss: Tensor
    terms: Mapping[str, Tensor]
    batch: Batch


class LossWatch:
    """Looks at the loss of each step once its backward pass is under way.

    On a GPU that waits for the forward pass alone: whether the loss is finite is copied to pinned memory right behind
    it, while the backward pass, which the GPU still has before it, keeps it busy. What made the loss so is looked for
    only where it is not finite. Gradients that overflow in float16 from a finite loss are left to the scaler of AMP.
    """

    def __init__(self) -> None:
        self._watched: _Watched | None = None

    def watch(self, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """Remembers the step until :meth:`check`.

        Args:
            loss: Of the step, a scalar.
            terms: What it is the sum of, by name.
            batch: What it was computed from.
        """
        finite = loss.detach().isfinite().to("cpu", non_blocking=loss.is_cuda)
        copied = None
        if loss.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        detached = {name: value.detach() for name, value in terms.items()}
        self._watched = _Watched(finite, copied, loss.detach(), detached, batch)

    def check(self, network: nn.Module, *, when: str) -> None:
        """Forgets the step, whose loss was finite.

        Args:
            network: Whose weights may be to blame.
            when: Names the step in the error.

        Raises:
            ValueError: It was not; names the samples that are not finite, or else the weights or the terms.
        """
        watched, self._watched = self._watched, None
        if watched is None:
            return
        if watched.copied is not None:
            watched.copied.synchronize()
        if not watched.finite:
            raise UserError(f"the loss is {float(watched.loss)} {when}: {_cause(watched, network)}")


def _cause(watched: _Watched, network: nn.Module) -> str:
    for name, values in watched.batch.items():
        if name == "target" or not values.is_floating_point():
            continue
        rows = (~values.reshape(len(values), -1).isfinite().all(1)).nonzero()[:, 0]
        if len(rows):
            return f"{name!r} is not finite in {_samples(rows, watched.batch.get('index'))}"
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            return f"the network's weight {name!r} is not finite, but all inputs are"
    strange = [name for name, value in watched.terms.items() if not value.isfinite().all()]
    return f"of its terms {', '.join(strange) or 'none'} is not finite, but all inputs of this process and weights are"


def _samples(rows: Tensor, index: Tensor | None) -> str:
    numbers = rows if index is None else index[rows]
    named = ", ".join(map(str, numbers[:NAMED].tolist()))
    rest = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"samples {named}{rest} of the {'batch' if index is None else 'data set'}"
