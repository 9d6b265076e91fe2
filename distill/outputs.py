"""What networks return, whatever their library, as the methods want it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from distill.errors import UserTypeError
from distill.taps import FeatureTaps

Batch = dict[str, Tensor]


class NetworkOutput(NamedTuple):
    """What a network makes of a batch.

    ``prediction`` holds logits ``(N, C, *spatial)``, or depth in metres ``(N, 1, H, W)``; ``features`` the outputs of
    the tapped layers by name, in the order in which they were asked for. Half precision is cast to float32.
    """

    prediction: Tensor
    features: dict[str, Tensor]

    def at(self, layers: Sequence[str]) -> list[Tensor]:
        """The features of these layers one by one; a layer that is named twice comes twice."""
        return [self.features[layer] for layer in layers]


def prediction_of(output: Any) -> Tensor:
    """The prediction in what a network returned: a tensor, or ``logits`` or ``out`` of a mapping.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in ("logits", "out"):
            if key in output:
                return cast(Tensor, output[key])
    raise UserTypeError(f"a network must return a tensor, or a mapping with logits or out, got {type(output).__name__}")


def shapes(output: NetworkOutput) -> str:
    """What a method had to compare, for a message: the shapes of the features, or of the prediction."""
    features = ", ".join(f"{name} {tuple(feature.shape)}" for name, feature in output.features.items())
    return f"features {features}" if features else f"predictions {tuple(output.prediction.shape)}"


def full_precision(tensor: Tensor) -> Tensor:
    """float32 for half precision; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def network_output(taps: FeatureTaps, inputs: tuple[Tensor, ...]) -> NetworkOutput:
    """Runs a tapped network on its inputs."""
    output, features = taps(*inputs)
    return NetworkOutput(
        full_precision(prediction_of(output)), {name: full_precision(value) for name, value in features.items()}
    )


@contextmanager
def autocast_off(tensor: Tensor) -> Iterator[None]:
    """Computes as the types say on the tensor's kind of device."""
    with torch.autocast(tensor.device.type, enabled=False):
        yield
