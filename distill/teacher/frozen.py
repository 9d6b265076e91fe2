"""A teacher as it runs: frozen, tapped, and in a precision of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from distill.checkpoint import check_class_names, load_network, looks_untrained
from distill.checks import check_option
from distill.distributed import SynchronizedBuffers
from distill.internals.torch import FollowedModule, UnsentBuffers, apply_to
from distill.outputs import NetworkOutput, autocast_off, network_output
from distill.taps import FeatureTaps

Precision = Literal["bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FrozenTeacher:
    """Runs a network in eval mode and without gradients; what it returns is float32.

    It is no module: what holds it does not register the network, which so is in no checkpoint, optimiser, ``train()``
    or broadcast of DDP.

    Args:
        network: Frozen in place.
        layers: Those whose outputs come back as features; see :class:`~distill.taps.FeatureTaps`.
        precision: The type of all weights and inputs, whatever the student's or autocast's is; ``None`` follows these.
        checkpoint: Weights for the network; see :func:`~distill.checkpoint.load_weights`.

    Raises:
        ValueError: The precision is unknown, or the checkpoint does not fit the network.
        FileNotFoundError: There is no such checkpoint.
        KeyError: A layer is not one of the network's.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Iterable[str],
        precision: Precision | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        if precision is not None:
            check_option("teacher_precision", precision, DTYPES)
        self.untrained = checkpoint is None and looks_untrained(network)
        self.class_names: Sequence[str] = () if checkpoint is None else _load(network, checkpoint)
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

    def check_trained(self, class_names: Sequence[str]) -> None:
        """Warns of random weights, and compares the classes that the network knows with those of the data.

        Raises:
            ValueError: They are the same in another order.
        """
        if self.untrained:
            rank_zero_warn(
                f"the teacher {type(self.network).__name__} has random weights: give teacher_checkpoint, or call "
                ".eval() on a teacher whose weights you loaded yourself"
            )
        check_class_names(self.class_names, class_names, model="teacher_checkpoint")

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        """Goes where the module around it goes, as :meth:`torch.nn.Module.to` does, but keeps its own precision."""
        keeps = self.dtype is not None
        apply_to(self.network, (lambda values: values.to(change(values).device)) if keeps else change)


class TeacherHolder(FollowedModule, UnsentBuffers):
    """Base of a module that trains beside a frozen teacher, which goes where the module goes and is no part of it."""

    frozen_teacher: FrozenTeacher | None = None

    @property
    def teacher(self) -> nn.Module | None:
        """The network to learn from."""
        return None if self.frozen_teacher is None else self.frozen_teacher.network

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "teacher":  # torch would register it, whatever the property says
            raise AttributeError("the teacher is an argument of the constructor, which freezes it")
        super().__setattr__(name, value)

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        """Lets the teacher follow."""
        if self.frozen_teacher is not None:
            self.frozen_teacher.follow(change)

    def unsent_buffers(self) -> Iterable[str]:
        """Buffers that are equal in all processes by what they do."""
        equal = ((name, part) for name, part in self.named_modules() if isinstance(part, SynchronizedBuffers))
        return (name for prefix, part in equal for name, _ in part.named_buffers(prefix))


def check_separate(teacher: nn.Module, student: nn.Module) -> None:
    """Raises a ValueError where the two networks share parameters, which would be frozen in both."""
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise ValueError("teacher and student share parameters: give the student a network of its own")


def _load(network: nn.Module, checkpoint: str | Path) -> Sequence[str]:
    try:
        return load_network(network, checkpoint)
    except ValueError as error:
        raise ValueError(f"the teacher_checkpoint {error}") from None
