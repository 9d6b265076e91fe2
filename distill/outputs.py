"""Brings the outputs of networks of any library into one form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor

from distill.batches import Batch as Batch
from distill.batches import modalities as modalities
from distill.batches import samples_in as samples_in
from distill.errors import UserTypeError

AUXILIARY = re.compile(r"aux(iliary)?(_?(logits?|outs?|outputs?|preds?|predictions?|heads?))?_?\d*")
"""Names of auxiliary predictions; ``aux_loss`` and ``aux_features``, for instance, are none."""


class NetworkOutput(NamedTuple):
    """The output of a network for a batch.

    ``prediction`` holds logits ``(N, C, *spatial)``, or depth in metres ``(N, 1, H, W)``. ``features`` holds the
    outputs of the tapped layers by name, in the order of the method's layers; see
    :class:`~distill.taps.FeatureTaps`. ``auxiliary`` holds further predictions of the same kind by name, which some
    networks make to learn. Half precision is cast to float32.
    """

    prediction: Tensor
    features: dict[str, Tensor]
    auxiliary: Mapping[str, Tensor] = {}

    def at(self, layers: Sequence[str]) -> list[Tensor]:
        """The features of these layers, in order; a layer that is named twice appears twice."""
        return [self.features[layer] for layer in layers]


class StepOutput(TypedDict, total=False):
    """What a step returns for the callbacks, which serve any LightningModule whose steps return these keys.

    Only ``prediction`` is needed, and ``teacher_prediction`` where the two are compared. ``docs/callbacks.md`` says
    which callback reads which key. All tensors are detached. N is the number of samples.

    Args:
        loss: The loss, from ``training_step`` only.
        prediction: The student's prediction: logits ``(N, C, *spatial)``, or depth in metres ``(N, 1, H, W)``.
        teacher_prediction: The teacher's, of the same kind and shape.
        target: What is predicted. If the step returns none, it is ``batch["target"]``, or the last item of a batch
            that is a tuple.
        inputs: What the student sees, ``(N, *)`` each; none by default.
        teacher_inputs: What the teacher sees; none by default.
        features: The outputs of the student's tapped layers by name, ``(N, C, *)`` each; none by default.
        teacher_features: The teacher's; none by default.
        ignore_index: The target of positions that do not count; 255 by default.
        present: ``(N,)`` bool, false for samples that lack a modality of the teacher. Their teacher's prediction has no
            meaning, and callbacks leave them out where they compare the two. By default all are there.
    """

    loss: Tensor
    prediction: Tensor
    teacher_prediction: Tensor
    target: Tensor
    inputs: tuple[Tensor, ...]
    teacher_inputs: tuple[Tensor, ...]
    features: dict[str, Tensor]
    teacher_features: dict[str, Tensor]
    ignore_index: int
    present: Tensor


def prediction_of(output: Any) -> Tensor:
    """The prediction in a network's output.

    It is the tensor itself, ``logits`` or ``out`` of a mapping or a named tuple, or the first item of a tuple or a list
    of predictions.

    Raises:
        TypeError: The output is none of these.
    """
    named = _named(output)
    if isinstance(named, Tensor):
        return named
    if isinstance(named, Mapping):
        for key in ("logits", "out"):
            if key in named:
                return cast(Tensor, named[key])
    if isinstance(named, (tuple, list)) and _are_predictions(named):
        return cast(Tensor, named[0])
    raise UserTypeError(
        "a network must return a tensor, a mapping with logits or out, or a tuple of a prediction and auxiliary ones "
        f"of its kind, got {type(output).__name__}"
    )


def auxiliary_predictions_of(output: Any) -> dict[str, Tensor]:
    """The auxiliary predictions by name: those of a mapping or a named tuple, or the items of a tuple after its first.

    In a mapping they are called ``aux``, ``aux_logits1``, ``auxiliary_outputs`` and the like, and have two or more
    dims. The items of a tuple are called ``item 1``, ``item 2`` and so on.
    """
    named = _named(output)
    found: dict[str, Any] = {}
    if isinstance(named, Mapping):
        for key, value in named.items():
            if isinstance(key, str) and AUXILIARY.fullmatch(key):
                several = isinstance(value, (tuple, list))
                found |= {f"{key}[{i}]": item for i, item in enumerate(value)} if several else {key: value}
    elif isinstance(named, (tuple, list)) and _are_predictions(named):
        found = {f"item {index}": item for index, item in enumerate(named[1:], 1)}
    return {name: item for name, item in found.items() if isinstance(item, Tensor) and item.ndim > 1}


def _named(output: Any) -> Any:
    """The output, a named tuple as a mapping."""
    return output._asdict() if isinstance(output, tuple) and hasattr(output, "_asdict") else output


def _are_predictions(items: Sequence[Any]) -> bool:
    """Whether the items are tensors with the same number of samples, of channels and of dims; some may be missing."""
    kinds = {(item.ndim, item.shape[:2]) if isinstance(item, Tensor) else None for item in items if item is not None}
    return len(kinds) == 1 and isinstance(items[0], Tensor)


def step_output(
    teacher: NetworkOutput,
    student: NetworkOutput,
    teacher_inputs: tuple[Any, ...],
    student_inputs: tuple[Any, ...],
    ignore_index: int,
    present: Tensor | None = None,
) -> dict[str, Any]:
    """The output of a step of teacher and student for the callbacks, detached; see :class:`StepOutput`."""
    output = StepOutput(
        prediction=student.prediction.detach(),
        teacher_prediction=teacher.prediction.detach(),
        features={layer: feature.detach() for layer, feature in student.features.items()},
        teacher_features={layer: feature.detach() for layer, feature in teacher.features.items()},
        inputs=student_inputs,
        teacher_inputs=teacher_inputs,
        ignore_index=ignore_index,
    )
    return {**output} if present is None else {**output, "present": present}


def chosen_rows(output: NetworkOutput, rows: Tensor) -> NetworkOutput:
    """The output for the samples at these rows, int64."""
    return NetworkOutput(
        output.prediction[rows],
        {name: values[rows] for name, values in output.features.items()},
        {name: values[rows] for name, values in output.auxiliary.items()},
    )


def shapes(output: NetworkOutput) -> str:
    """The shapes of the features, or of the prediction if there are no features, as text for a message."""
    features = ", ".join(f"{name} {tuple(feature.shape)}" for name, feature in output.features.items())
    return f"features {features}" if features else f"predictions {tuple(output.prediction.shape)}"


def full_precision(tensor: Tensor) -> Tensor:
    """Casts half precision to float32; leaves float32 and float64 unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def network_output(output: Any, features: Mapping[str, Tensor] | None = None) -> NetworkOutput:
    """What a network returned, and its features by layer, in one form and in float32.

    Raises:
        TypeError: The output holds no prediction.
    """
    return NetworkOutput(
        full_precision(prediction_of(output)),
        {name: full_precision(value) for name, value in (features or {}).items()},
        {name: full_precision(value) for name, value in auxiliary_predictions_of(output).items()},
    )


@contextmanager
def autocast_off(tensor: Tensor) -> Iterator[None]:
    """Switches autocast off on the tensor's kind of device, so that computations keep the types of their tensors."""
    with torch.autocast(tensor.device.type, enabled=False):
        yield
