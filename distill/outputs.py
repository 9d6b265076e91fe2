"""Batches in and outputs out: brings the outputs of networks of any library into one form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from distill.errors import UserKeyError, UserTypeError
from distill.taps import FeatureTaps

Batch = dict[str, Tensor]


class NetworkOutput(NamedTuple):
    """The output of a network for a batch.

    ``prediction`` holds logits ``(N, C, *spatial)``, or depth in metres ``(N, 1, H, W)``. ``features`` holds the
    outputs of the tapped layers by name, in the order of the method's layers. Half precision is cast to float32.
    """

    prediction: Tensor
    features: dict[str, Tensor]

    def at(self, layers: Sequence[str]) -> list[Tensor]:
        """The features of these layers, in order; a layer that is named twice appears twice."""
        return [self.features[layer] for layer in layers]


def prediction_of(output: Any) -> Tensor:
    """The prediction in a network's output: the tensor itself, or ``logits`` or ``out`` of a mapping.

    Raises:
        TypeError: The output is neither a tensor nor such a mapping.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in ("logits", "out"):
            if key in output:
                return cast(Tensor, output[key])
    raise UserTypeError(f"a network must return a tensor, or a mapping with logits or out, got {type(output).__name__}")


def modalities(batch: Batch, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The named modalities of a batch, in the order of the names.

    Raises:
        KeyError: The batch lacks a modality.
    """
    missing = [name for name in names if name not in batch]
    if missing:
        raise UserKeyError(f"the batch has no modality {missing[0]!r}; it has {', '.join(map(repr, batch))}")
    return tuple(batch[name] for name in names)


def step_output(
    teacher: NetworkOutput,
    student: NetworkOutput,
    teacher_inputs: tuple[Tensor, ...],
    student_inputs: tuple[Tensor, ...],
    ignore_index: int,
) -> dict[str, Any]:
    """The output of a step of teacher and student for the callbacks, detached, under the names that callbacks read."""
    return {
        "prediction": student.prediction.detach(),
        "teacher_prediction": teacher.prediction.detach(),
        "features": {layer: feature.detach() for layer, feature in student.features.items()},
        "teacher_features": {layer: feature.detach() for layer, feature in teacher.features.items()},
        "inputs": student_inputs,
        "teacher_inputs": teacher_inputs,
        "ignore_index": ignore_index,
    }


def shapes(output: NetworkOutput) -> str:
    """The shapes of the features, or of the prediction if there are no features, as text for a message."""
    features = ", ".join(f"{name} {tuple(feature.shape)}" for name, feature in output.features.items())
    return f"features {features}" if features else f"predictions {tuple(output.prediction.shape)}"


def full_precision(tensor: Tensor) -> Tensor:
    """Casts half precision to float32; leaves float32 and float64 unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def network_output(taps: FeatureTaps, inputs: tuple[Tensor, ...]) -> NetworkOutput:
    """The output of a tapped network for its inputs, in float32."""
    output, features = taps(*inputs)
    return NetworkOutput(
        full_precision(prediction_of(output)), {name: full_precision(value) for name, value in features.items()}
    )


@contextmanager
def autocast_off(tensor: Tensor) -> Iterator[None]:
    """Switches autocast off on the tensor's kind of device, so that computations keep the types of their tensors."""
    with torch.autocast(tensor.device.type, enabled=False):
        yield
