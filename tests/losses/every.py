"""Every public loss on the same inputs: its arguments are filled in by name, so that a new loss is included."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from distill import losses

WITHOUT_TENSORS = {"bin_centers", "nce_log_normalizer"}
OF_DEPTH = {"silog_loss", "ssim_loss", "depth_probability_map"}
OF_MATRICES = {"fsp_loss"}
NUMBERS = {"n_data": 50, "sigma": 1.0}


class Sides(NamedTuple):
    """The leaves of a call, from which all its tensors are made; the target belongs to them."""

    student: Tensor  # (N, C, H, W)
    teacher: Tensor  # (N, C, H, W)
    target: Tensor  # (N, H, W)


class Call(NamedTuple):
    """A loss with one choice of its options."""

    name: str
    options: dict[str, Any]

    def __call__(self, x: Sides) -> tuple[Tensor, ...]:
        """All results of the loss."""
        given = {**self.arguments(x), **NUMBERS, **self.options}
        # a beta may also be a number, which has a default
        wanted = [name for name, p in self.parameters.items() if "Tensor" in p.annotation or name in NUMBERS]
        result = getattr(losses, self.name)(**{name: given[name] for name in {*wanted, *self.options}})
        return result if isinstance(result, tuple) else (result,)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(getattr(losses, self.name)).parameters)

    @property
    def takes_teacher(self) -> bool:
        return bool({"teacher", "teacher_z", "teachers", "teacher_depth", "b", "depth"} & set(self.parameters))

    def arguments(self, x: Sides) -> dict[str, Any]:
        """The tensors for every name of an argument."""
        student, teacher, target = x
        if self.name in OF_MATRICES:
            student, teacher = student.flatten(2), teacher.flatten(2)
        if self.name in OF_DEPTH:
            student, teacher = student[:, :1], teacher[:, :1]
            target = teacher
        weights = torch.linspace(1, 2, student.shape[1], device=student.device)
        return {
            "student": student,
            "teacher": teacher,
            "target": target,
            "beta": weights.view(1, -1, *[1] * (student.ndim - 2)).expand_as(student),
            "known": torch.ones_like(student, dtype=torch.bool),
            "student_z": student.flatten(1),
            "teacher_z": teacher.flatten(1),
            "positive": student.flatten(1)[:, 0],
            "negatives": student.flatten(1)[:, 1:],
            "features": student,
            "a": student,
            "b": teacher,
            "first": student,
            "second": student.square(),
            "predicted_mean": student,
            "variance": weights,
            "students": [[student, student]],
            "teachers": [teacher, teacher],
            "attention": torch.full((len(student), 1, 2), 0.5, device=student.device),
            "student_logits": student,
            "teacher_depth": teacher[:, :1],
            "logits": student,
            "depth": teacher[:, :1],
        }

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{name}={value}" for name, value in self.options.items())])


def calls() -> Iterator[Call]:
    """Every loss that takes tensors, with its defaults and with every other value of each of its options."""
    for name in losses.__all__:
        if name in WITHOUT_TENSORS:
            continue
        yield Call(name, {})
        loss = getattr(losses, name)
        hints = get_type_hints(loss)
        for option, parameter in inspect.signature(loss).parameters.items():
            if hints[option] is bool and option != "teacher_gradient":
                values: tuple[Any, ...] = (True, False)
            else:
                values = get_args(hints[option]) if get_origin(hints[option]) is Literal else ()
            yield from (Call(name, {option: value}) for value in values if value != parameter.default)
        if hints.get("target") == Tensor | None:
            yield Call(name, {"target": None})


def sides(samples: int = 4, channels: int = 4, size: tuple[int, int] = (3, 4), seed: int = 0) -> Sides:
    """Numbers above 0, so that they may also be depths, in float32."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, samples, channels, *size, generator=generator).exp()
    return Sides(student, teacher, torch.randint(channels, (samples, *size), generator=generator))
