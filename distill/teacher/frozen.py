"""A teacher as it runs: frozen, tapped, and in a precision of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.outputs import NetworkOutput, autocast_off, network_output
from distill.taps import FeatureTaps

Precision = Literal["bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FrozenTeacher:
    """Runs a network in eval mode and without gradients; what it returns is float32.

    Args:
        network: Frozen in place.
        layers: Those whose outputs come back as features; see :class:`~distill.taps.FeatureTaps`.
        precision: The type of all weights and inputs, whatever the student's or autocast's is; ``None`` follows these.

    Raises:
        ValueError: The precision is unknown.
        KeyError: A layer is not one of the network's.
    """

    def __init__(self, network: nn.Module, layers: Iterable[str], precision: Precision | None = None) -> None:
        if precision is not None and precision not in DTYPES:
            raise UserError(f"teacher_precision must be one of {', '.join(DTYPES)}, got {precision!r}")
        self.network = network.eval().requires_grad_(False)
        self.dtype = None if precision is None else DTYPES[precision]
        self.taps = FeatureTaps(network, layers)
        if self.dtype is not None:
            network.to(self.dtype)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> NetworkOutput:
        """The prediction, in its own size, and the features."""
        if self.dtype is None:
            return network_output(self.taps, inputs)
        cast = tuple(values.to(self.dtype) if values.is_floating_point() else values for values in inputs)
        with autocast_off(inputs[0]):
            return network_output(self.taps, cast)

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        """Goes where the module around it goes, as :meth:`torch.nn.Module.to` does, but keeps its own precision."""
        keeps = self.dtype is not None
        self.network._apply((lambda values: values.to(change(values).device)) if keeps else change)
