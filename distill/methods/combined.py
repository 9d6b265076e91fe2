"""Combined: any methods together, side by side on one pair of networks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_weights
from distill.errors import UserError

OF_THE_WHOLE = {
    **{name: name for name in ("teacher", "student", "task", "teacher_inputs", "student_inputs")},
    **{name: name for name in ("optimizer", "lr_scheduler", "teacher_layout", "student_layout", "batch_names")},
    "cache_teacher": "teacher_cache",
    "teacher_classes": "class_map",
}
"""Arguments that a part leaves to the whole, and the attributes that hold them."""

AUX_WEIGHT = inspect.signature(DistillationModule).parameters["aux_weight"].default
"""A part has no hard loss, so another weight in it would have no effect."""


class Combined(DistillationModule):
    """The weighted sum of other methods' terms beside one hard loss, as in ``KD + DS``.

    Needs: what its parts need.

    Trains: what its parts train.

    The parts are methods without networks, inputs, task and optimiser of their own; their hard losses are left out.
    Each sees the layers that it names; a layer named by several runs once. Its terms are logged as
    ``train/<part>/<term>``.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        methods: The parts by name.
        weights: The weight of each part; 1 where none is given.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no part, a weight is for none of them, or a part has an argument that belongs to the
            whole.
    """

    def __init__(
        self,
        *args: Any,
        methods: dict[str, DistillationModule],
        weights: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(  # type: ignore[misc]
            *args,
            teacher_layers=[layer for method in methods.values() for layer in method.teacher_layers],
            student_layers=[layer for method in methods.values() for layer in method.student_layers],
            **kwargs,
        )
        if not methods:
            raise UserError("Combined has no methods: give it one or more under model.init_args.methods")
        unknown = [name for name in weights or {} if name not in methods]
        if unknown:
            raise UserError(f"weights names {unknown[0]!r}, but the methods are {', '.join(map(repr, methods))}")
        for name, method in methods.items():
            own = [argument for argument, attribute in OF_THE_WHOLE.items() if getattr(method, attribute)]
            own += [argument for argument, value in method.network_options.items() if value]
            own += ["aux_weight"] if method.aux_weight != AUX_WEIGHT else []
            if own:
                raise UserError(f"method {name!r} has its own {own[0]}: give it to Combined alone")
        self.weights = {name: (weights or {}).get(name, 1.0) for name in methods}
        check_weights(self.hard_weight, **{f"weights[{name!r}]": weight for name, weight in self.weights.items()})
        self.methods = nn.ModuleDict(methods)
        for method in self._all_parts():
            object.__setattr__(method, "task", self.task)  # seen, but not registered a second time

    def prepare(self, stage: str) -> None:
        """As in the base class; the parts follow the same trainer, for schedules over epochs."""
        for method in self._all_parts():
            method.trainer = self.trainer
        super().prepare(stage)

    def check_fit(self) -> None:
        """Checks all parts."""
        for method in self._parts().values():
            method.check_fit()

    def after_backward(self) -> None:
        """All parts remember the step."""
        for method in self._parts().values():
            method.after_backward()

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms of all parts, weighted."""
        return {
            f"{name}/{term}": self.weights[name] * value
            for name, method in self._parts().items()
            for term, value in method.distillation_step(
                _only(teacher, method.teacher_layers), _only(student, method.student_layers), batch
            ).items()
        }

    def _parts(self) -> Mapping[str, DistillationModule]:
        return dict(self.methods.items())  # type: ignore[arg-type]

    def _all_parts(self) -> Iterator[DistillationModule]:
        """The parts, and those of parts that are ``Combined`` themselves."""
        return (module for module in self.methods.modules() if isinstance(module, DistillationModule))


def _only(output: NetworkOutput, layers: tuple[str, ...]) -> NetworkOutput:
    return NetworkOutput(output.prediction, {layer: output.features[layer] for layer in layers})
