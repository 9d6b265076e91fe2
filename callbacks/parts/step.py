"""What a step of any LightningModule returned, with defaults for the keys that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from callbacks.parts.classes import class_target

IGNORE_INDEX = 255


@dataclass(frozen=True)
class Step:
    """The output of a step; see :class:`~distill.outputs.StepOutput`.

    Args:
        prediction: The student's prediction, ``(N, *)``.
        teacher_prediction: The teacher's; ``None`` without a teacher.
        target: ``None`` if neither the output nor the batch has one. Soft labels are class indices, ``(N,)``.
        inputs: What the student sees; none if one of them is no tensor, such as a list with a tensor for each sample.
        teacher_inputs: What the teacher sees; none if one of them is no tensor.
        modalities: The tensors that either of them sees, by their names in the batch, or as ``input 1`` and so on.
        features: The student's features by layer.
        teacher_features: The teacher's features by layer.
        ignore_index: The target of positions that do not count.
        present: ``(N,)`` bool, false where the teacher's prediction has no meaning; ``None`` if all have one.
        image: The batch's ``image``, even if no model sees it; ``None`` without one.
    """

    prediction: Tensor
    teacher_prediction: Tensor | None = None
    target: Tensor | None = None
    inputs: tuple[Tensor, ...] = ()
    teacher_inputs: tuple[Tensor, ...] = ()
    modalities: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    ignore_index: int = IGNORE_INDEX
    present: Tensor | None = None
    image: Tensor | None = None

    def with_teacher(self) -> Step:
        """The samples whose teacher's prediction has a meaning."""
        present = self.present
        if present is None or bool(present.all()):
            return self
        rows = present.to(self.prediction.device)

        def kept(tensor: Tensor) -> Tensor:
            return tensor[rows.to(tensor.device)]

        return replace(
            self,
            prediction=kept(self.prediction),
            teacher_prediction=None if self.teacher_prediction is None else kept(self.teacher_prediction),
            target=None if self.target is None else kept(self.target),
            inputs=tuple(map(kept, self.inputs)),
            teacher_inputs=tuple(map(kept, self.teacher_inputs)),
            modalities={name: kept(values) for name, values in self.modalities.items()},
            features={layer: kept(values) for layer, values in self.features.items()},
            teacher_features={layer: kept(values) for layer, values in self.teacher_features.items()},
            present=None,
            image=None if self.image is None else kept(self.image),
        )


def read_step(outputs: Any, batch: Any, module: LightningModule | None = None) -> Step | None:
    """What a step returned; ``None`` if that has no ``prediction``.

    Args:
        outputs: What the step returned.
        batch: Its batch.
        module: Its module, whose task says which targets are soft labels.
    """
    if not isinstance(outputs, Mapping) or not isinstance(outputs.get("prediction"), Tensor):
        return None
    inputs, teacher_inputs = (inputs_of(outputs, key) for key in ("inputs", "teacher_inputs"))
    prediction, ignore_index = outputs["prediction"], outputs.get("ignore_index", IGNORE_INDEX)
    present = outputs.get("present")
    return Step(
        prediction=prediction,
        teacher_prediction=_tensor(outputs.get("teacher_prediction")),
        target=class_target(module, prediction, _target(outputs, batch), ignore_index),
        inputs=_if_tensors(inputs),
        teacher_inputs=_if_tensors(teacher_inputs),
        modalities=_tensors(named_inputs(batch, [*teacher_inputs, *inputs])),
        features=_features(outputs.get("features")),
        teacher_features=_features(outputs.get("teacher_features")),
        ignore_index=ignore_index,
        present=None if present is None else torch.as_tensor(present, dtype=torch.bool),
        image=_tensor(batch.get("image")) if isinstance(batch, Mapping) else None,
    )


def inputs_of(outputs: Any, key: str) -> tuple[Any, ...]:
    """What a network sees, by a step: one tensor, several in a tuple or a list, or the values of a dictionary."""
    inputs = outputs.get(key) if isinstance(outputs, Mapping) else None
    if isinstance(inputs, Mapping):
        return tuple(inputs.values())
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())


def named_inputs(batch: Any, inputs: Sequence[Any]) -> dict[str, Any]:
    """Each input once, by its name in the batch; one that the batch does not hold is called ``input 1`` and so on."""
    named: dict[str, Any] = {}
    if isinstance(batch, Mapping):
        named = {name: value for name, value in batch.items() if any(value is one for one in inputs)}
    for one in inputs:
        if not any(one is value for value in named.values()):
            named[f"input {len(named) + 1}"] = one
    return named


def named_target(outputs: Any, batch: Any) -> Tensor | None:
    """``target`` of the step, or else of the batch."""
    for source in (outputs, batch):
        target = source.get("target") if isinstance(source, Mapping) else None
        if isinstance(target, Tensor):
            return target
    return None


def _target(outputs: Mapping[str, Any], batch: Any) -> Tensor | None:
    last = batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    named = named_target(outputs, batch)
    return _tensor(last) if named is None else named


def _tensor(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) else None


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _features(values: Any) -> dict[str, Tensor]:
    """The features ``(N, C, *)`` by layer; those of a list by their numbers."""
    if isinstance(values, (tuple, list)):
        values = {str(number): value for number, value in enumerate(values)}
    tensors = _tensors(values) if isinstance(values, Mapping) else {}
    return {layer: value for layer, value in tensors.items() if value.ndim > 1}


def _if_tensors(values: tuple[Any, ...]) -> tuple[Tensor, ...]:
    # the others alone would not be all that a network sees
    return values if all(isinstance(value, Tensor) for value in values) else ()
