"""Runs a teacher: frozen, with taps on its layers, and in its own precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from distill.batches import tensors_in, with_floats
from distill.checkpoint import Weights, check_class_names, load_network, looks_untrained
from distill.checks import check_option
from distill.distributed import SynchronizedBuffers
from distill.errors import UserError
from distill.internals.torch import FollowedModule, UnsentBuffers, apply_to
from distill.layouts import Layout
from distill.outputs import NetworkOutput, autocast_off, network_output
from distill.taps import FeatureTaps

Precision = Literal["bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FrozenTeacher:
    """Runs a network in eval mode and without gradients; its outputs are float32.

    This class is not a module, so the module that holds it does not register the network. No checkpoint holds the
    network's weights, and the optimiser, ``train()`` and DDP's broadcast do not reach them.

    Args:
        network: The network; it is frozen in place.
        layers: The layers whose outputs are returned as features; see :class:`~distill.taps.FeatureTaps`.
        precision: The type of all weights and inputs, independent of the student and of autocast. ``None`` follows the
            student and autocast.
        checkpoint: Weights for the network; see :func:`~distill.checkpoint.load_network`.
        layout: The layout of the features; see :class:`~distill.taps.FeatureTaps`.

    Raises:
        ValueError: The precision is unknown, or the checkpoint does not fit the network.
        FileNotFoundError: The checkpoint does not exist.
        KeyError: The network lacks a layer.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Iterable[str],
        precision: Precision | None = None,
        checkpoint: Weights | str | Path | None = None,
        layout: Layout | Mapping[str, Layout] | None = None,
    ) -> None:
        if precision is not None:
            check_option("teacher_precision", precision, DTYPES)
        self.untrained = checkpoint is None and looks_untrained(network)
        self.class_names: Sequence[str] = ()
        if checkpoint is not None:
            self.class_names = load_network(network, checkpoint, "teacher_checkpoint")
        self.network = network.eval().requires_grad_(False)
        self.dtype = None if precision is None else DTYPES[precision]
        self.taps = FeatureTaps(network, layers, layout, option="teacher_layout")
        if self.dtype is not None:
            network.to(self.dtype)

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> NetworkOutput:
        """The prediction, in the network's size, and the features."""
        if self.dtype is None:
            return network_output(*self.taps(*inputs))
        with autocast_off(next(tensors_in(inputs))):
            return network_output(*self.taps(*with_floats(inputs, self.dtype)))

    def check_trained(self, class_names: Sequence[str]) -> None:
        """Warns of random weights, and compares the network's classes with those of the data.

        Raises:
            ValueError: The classes are the same in another order.
        """
        if self.untrained:
            rank_zero_warn(
                f"the teacher {type(self.network).__name__} has random weights: give teacher_checkpoint, or call "
                ".eval() on a teacher whose weights you loaded yourself"
            )
        check_class_names(self.class_names, class_names, model="teacher_checkpoint", of_teacher=True)

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        """Moves the network with the module that holds it, as :meth:`torch.nn.Module.to` does; keeps its precision."""
        only_device = self.dtype is not None
        apply_to(self.network, (lambda values: values.to(change(values).device)) if only_device else change)


class TeacherHolder(FollowedModule, UnsentBuffers):
    """Base of a module with a frozen teacher: the teacher moves with the module but is not registered in it."""

    frozen_teacher: FrozenTeacher | None = None

    @property
    def teacher(self) -> nn.Module | None:
        """The network to learn from."""
        return None if self.frozen_teacher is None else self.frozen_teacher.network

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "teacher":  # torch would register the network, in spite of the property
            raise AttributeError("the teacher cannot be assigned: it is an argument of the constructor")
        super().__setattr__(name, value)

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        """Moves the teacher to another device or type."""
        if self.frozen_teacher is not None:
            self.frozen_teacher.follow(change)

    def unsent_buffers(self) -> Iterable[str]:
        """The names of the buffers that their modules keep equal in all processes."""
        parts = ((name, part) for name, part in self.named_modules() if isinstance(part, SynchronizedBuffers))
        return (name for prefix, part in parts for name, _ in part.named_buffers(prefix))


def check_separate(teacher: nn.Module, student: nn.Module) -> None:
    """Raises a ValueError if the two networks share parameters: these would be frozen in the student too."""
    of_student = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in of_student for parameter in teacher.parameters()):
        raise UserError("teacher and student share parameters: give the student a network of its own")
