"""The gradients of a fit: checks each step for NaN and infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from distill.errors import UserError
from distill.internals.torch import are_finite


def copied_to_cpu(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The values on the CPU, from a GPU without waiting for it: they are valid after the event."""
    on_cpu = values.to("cpu", non_blocking=values.is_cuda)
    if not values.is_cuda:
        return on_cpu, None
    copied = torch.cuda.Event()
    copied.record()
    return on_cpu, copied


class _WatchedGradients(NamedTuple):
    finite: Tensor
    copied: torch.cuda.Event | None
    names: list[str]
    when: str


class GradientWatch:
    """Checks the gradients of each step: the loss of a square root at 0 is finite, and its gradient is not.

    On a CPU the check comes before the step. On a GPU it would wait for the backward pass there, so the result is read
    after the next step.
    """

    def __init__(self) -> None:
        self._watched: _WatchedGradients | None = None

    def watch(self, module: nn.Module, *, when: str) -> None:
        """Checks the gradients of the step before, and keeps those of this step or checks them as well.

        Args:
            module: The module in training, after the backward pass.
            when: The epoch and step, for the message.

        Raises:
            ValueError: A gradient is not finite. The message names its parameter.
        """
        self.check()
        gradients = {name: _values(p.grad) for name, p in module.named_parameters() if p.grad is not None}
        gradients = {name: values for name, values in gradients.items() if values.numel()}
        if not gradients:
            return
        finite = are_finite([*gradients.values()])
        self._watched = _WatchedGradients(*copied_to_cpu(finite), list(gradients), when)
        if not finite.is_cuda:
            self.check()

    def check(self) -> None:
        """Checks the gradients that were watched last, and forgets them.

        Raises:
            ValueError: As in :meth:`watch`.
        """
        watched, self._watched = self._watched, None
        if watched is None:
            return
        if watched.copied is not None:
            watched.copied.synchronize()
        strange = [name for name, finite in zip(watched.names, watched.finite, strict=True) if not finite]
        if strange:
            raise UserError(
                f"the gradient of {_first_of(strange)} is NaN or infinite {watched.when}, but the loss is finite: "
                "a term of the loss has no finite derivative there"
            )


def _values(gradient: Tensor) -> Tensor:
    """The values of this process: of its shard, and of a sparse gradient those that are stored."""
    local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
    return local.coalesce().values() if local.is_sparse else local


def _first_of(names: Sequence[str]) -> str:
    return f"{names[0]!r}" + (f" and {len(names) - 1} more parameters" if len(names) > 1 else "")
