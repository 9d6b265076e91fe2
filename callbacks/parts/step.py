"""What a step of any LightningModule returned, with defaults for the keys that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

IGNORE_INDEX = 255


@dataclass(frozen=True)
class Step:
    """The output of a step; see :class:`~distill.outputs.StepOutput`.

    Args:
        prediction: The student's prediction, ``(N, *)``.
        teacher_prediction: The teacher's; ``None`` without a teacher.
        target: ``None`` if neither the output nor the batch has one.
        inputs: What the student sees.
        teacher_inputs: What the teacher sees.
        modalities: What either of them sees, by its name in the batch, or as ``input 1`` and so on.
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


def read_step(outputs: Any, batch: Any) -> Step | None:
    """What a step returned; ``None`` if that has no ``prediction``."""
    if not isinstance(outputs, Mapping) or not isinstance(outputs.get("prediction"), Tensor):
        return None
    inputs, teacher_inputs = (tuple(outputs.get(key) or ()) for key in ("inputs", "teacher_inputs"))
    return Step(
        prediction=outputs["prediction"],
        teacher_prediction=outputs.get("teacher_prediction"),
        target=_target(outputs, batch),
        inputs=inputs,
        teacher_inputs=teacher_inputs,
        modalities=named_inputs(batch, [*teacher_inputs, *inputs]),
        features=outputs.get("features") or {},
        teacher_features=outputs.get("teacher_features") or {},
        ignore_index=outputs.get("ignore_index", IGNORE_INDEX),
        present=outputs.get("present"),
        image=batch.get("image") if isinstance(batch, Mapping) else None,
    )


def named_inputs(batch: Any, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Each input once, by its name in the batch; one that the batch does not hold is called ``input 1`` and so on."""
    named: dict[str, Tensor] = {}
    if isinstance(batch, Mapping):
        named = {name: value for name, value in batch.items() if any(value is one for one in inputs)}
    for one in inputs:
        if not any(one is value for value in named.values()):
            named[f"input {len(named) + 1}"] = one
    return named


def _target(outputs: Mapping[str, Any], batch: Any) -> Tensor | None:
    if isinstance(batch, Mapping) and "target" in batch:
        target = batch["target"]
    elif "target" in outputs:
        target = outputs["target"]
    else:
        target = batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    return target if isinstance(target, Tensor) else None
