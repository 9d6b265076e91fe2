"""Sums over an epoch that give the divergences of teacher and student; they do not depend on a trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.losses.parts.logits import softened
from distill.metrics import CentralMomentDiscrepancy, NontargetJSD, TargetJSD
from distill.resume.epoch_state import metric_state, set_metric_state

BUFFER_NUMEL = 2**19
"""How many numbers of one model are collected before they are compared: 2 MiB of float32. Fewer calls are faster."""


class OutputDivergences:
    """The divergences of the predictions of student and teacher by name; exact, whatever the batches are.

    ``cmd`` is the central moment discrepancy of the probabilities p, ``cmd_target`` that of ``[p_t, 1 - p_t]`` with
    the target class t, ``cmd_nontarget`` that of the softmax over the other classes; ``tcjsd`` and ``ncjsd`` are
    Jensen-Shannon divergences of the same two parts, in nats.

    Args:
        temperature: The logits of both models are divided by this.
        moments: K, the highest moment of the CMD.
        max_positions: The approximate number of positions of dense logits that are compared, on an even grid; ``None``
            compares all.
        device: The device of the sums; it must have float64.
    """

    def __init__(self, temperature: float, moments: int, max_positions: int | None, device: torch.device) -> None:
        self.temperature = temperature
        self.max_positions = max_positions
        self.device = device
        self.cmds = {name: CentralMomentDiscrepancy(moments) for name in ("cmd", "cmd_target", "cmd_nontarget")}
        # ignored positions are removed before
        self.jsds = {"tcjsd": TargetJSD(ignore_index=-1), "ncjsd": NontargetJSD(ignore_index=-1)}
        self._metrics: dict[str, Metric] = {**self.cmds, **self.jsds}
        for metric in self._metrics.values():
            metric.to(device)
        self._buffer = _RowBuffer()

    def add(self, student: Tensor, teacher: Tensor, target: Tensor, ignore_index: int) -> None:
        """Adds a batch.

        Args:
            student: The student's logits, ``(N, C, *spatial)``, C at least 2.
            teacher: The teacher's, of the same shape.
            target: Class indices, ``(N, *spatial)``.
            ignore_index: Positions with this target are ignored, and those whose target is none of the C classes.
        """
        grid = _grid(target.shape[1:], self.max_positions)
        rows = [logits.detach()[grid].movedim(1, -1).flatten(0, -2) for logits in (student, teacher)]
        target = target[grid].flatten()
        classes = student.shape[1]
        self._buffer.add(*rows, target, (target != ignore_index) & (target >= 0) & (target < classes))
        if self._buffer.numel >= BUFFER_NUMEL:
            self._update()

    def compute(self) -> dict[str, float]:
        """The divergences over all processes, NaN if all positions were ignored; all processes must call this."""
        self._update()
        return {name: metric.compute().item() for name, metric in self._metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that was added, on the CPU."""
        metrics = {name: metric_state(metric) for name, metric in self._metrics.items()}
        return {"metrics": metrics, "waiting": self._buffer.batches("cpu")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replaces all that was added."""
        for name, metric in state["metrics"].items():
            set_metric_state(self._metrics[name], metric)
        self._buffer = _RowBuffer(state["waiting"])

    def _update(self) -> None:
        for student, teacher, target, counts in self._buffer.take(self.device):
            if not counts.all():
                student, teacher, target = student[counts], teacher[counts], target[counts]
            if self.temperature != 1:
                student, teacher = softened(student, self.temperature), softened(teacher, self.temperature)
            target = target.long()
            pairs = zip(_distributions(student, target), _distributions(teacher, target), strict=True)
            for cmd, pair in zip(self.cmds.values(), pairs, strict=True):
                cmd.update(*pair)
            for jsd in self.jsds.values():
                jsd.update(student, teacher, target)


def float64_device(device: torch.device) -> torch.device:
    """The device for sums in float64: the given one, or the CPU for Apple's GPUs, which have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class InputDivergence:
    """The central moment discrepancy of the inputs of student and teacher, with un-normalised moments.

    Inputs with the same number of values are compared value by value. Images of one size with different channels are
    compared by the mean over their channels.

    Args:
        moments: K, the highest moment of the CMD.
        max_positions: The approximate number of positions of an image or a sequence that are compared, on an even grid;
            ``None`` compares all.
        device: The device of the sums; it must have float64.
    """

    def __init__(self, moments: int, max_positions: int | None, device: torch.device) -> None:
        self.max_positions = max_positions
        self.device = device
        self.comparable = True
        self._width = 0
        self._cmd = CentralMomentDiscrepancy(moments).to(device)
        self._buffer = _RowBuffer()

    @property
    def is_empty(self) -> bool:
        """Whether no batch was added."""
        return self._width == 0

    def add(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> None:
        """Adds a batch; inputs that cannot be compared make ``comparable`` false.

        Args:
            student: The inputs of the student, ``(N, *)`` each.
            teacher: The inputs of the teacher, ``(N, *)`` each.
        """
        equal = _values(student) == _values(teacher)
        if not equal and not _are_images_of_one_size(*student, *teacher):
            self.comparable = False
            return
        as_rows = _rows if equal else _rows_of_channel_means
        a, b = (as_rows([self._thinned(tensor) for tensor in inputs]) for inputs in (student, teacher))
        self._width = self._width or a.shape[1]
        # the grid takes different numbers of positions of images and vectors, and batches may differ in size
        self.comparable = a.shape[1] == b.shape[1] == self._width
        if not self.comparable:
            return
        self._buffer.add(a, b)
        if self._buffer.numel >= BUFFER_NUMEL:
            self._update()

    def compute(self) -> float:
        """The discrepancy over all processes; all processes must call this."""
        self._update()
        return float(self._cmd.compute())

    def state_dict(self) -> dict[str, Any]:
        """All that was added, on the CPU."""
        return {
            "comparable": self.comparable,
            "width": self._width,
            "cmd": metric_state(self._cmd),
            "waiting": self._buffer.batches("cpu"),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replaces all that was added."""
        self.comparable, self._width = state["comparable"], state["width"]
        set_metric_state(self._cmd, state["cmd"])
        self._buffer = _RowBuffer(state["waiting"])

    def _update(self) -> None:
        for pair in self._buffer.take(self.device):
            self._cmd.update(*pair)

    def _thinned(self, tensor: Tensor) -> Tensor:
        return tensor.detach()[_grid(tensor.shape[2:], self.max_positions)].float()


class _RowBuffer:
    """Rows of several batches, to be compared together."""

    def __init__(self, batches: Sequence[tuple[Tensor, ...]] = ()) -> None:
        self.numel = 0
        self._batches: list[tuple[Tensor, ...]] = []
        for tensors in batches:
            self.add(*tensors)

    def add(self, *tensors: Tensor) -> None:
        self.numel += tensors[0].numel()
        self._batches.append(tensors)

    def batches(self, device: str) -> list[tuple[Tensor, ...]]:
        return [tuple(tensor.to(device) for tensor in tensors) for tensors in self._batches]

    def take(self, device: torch.device) -> list[list[Tensor]]:
        """All rows as one batch, and empties the buffer; no batch if it is empty."""
        batches, self._batches, self.numel = self._batches, [], 0
        columns = zip(*batches, strict=True)
        return [[torch.cat([part.to(device) for part in column]) for column in columns]] if batches else []


def _values(modalities: tuple[Tensor, ...]) -> int:
    return sum(math.prod(modality.shape[1:]) for modality in modalities)


def _are_images_of_one_size(*modalities: Tensor) -> bool:
    return all(modality.ndim == 4 and modality.shape[2:] == modalities[0].shape[2:] for modality in modalities)


def _rows(modalities: list[Tensor]) -> Tensor:
    return torch.cat([modality.reshape(len(modality), -1) for modality in modalities], 1)


def _rows_of_channel_means(modalities: list[Tensor]) -> Tensor:
    return torch.cat(modalities, 1).mean(1).flatten(1)


def _grid(spatial: torch.Size, max_positions: int | None) -> tuple[Any, ...]:
    """An index of an even grid over the last dims, with about ``max_positions`` positions."""
    positions = math.prod(spatial)
    if max_positions is None or positions <= max_positions:
        return (...,)
    step = math.ceil((positions / max_positions) ** (1 / len(spatial)))
    return (..., *(slice(min(step // 2, size - 1), None, step) for size in spatial))


def _distributions(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From logits ``(M, C)``: p ``(M, C)``, ``[p_t, 1 - p_t]`` ``(M, 2)``, and the others' softmax ``(M, C - 1)``.

    The other classes keep their order, because moments are compared column by column.
    """
    probability = logits.softmax(1)
    target_probability = probability.gather(1, target[:, None])
    place = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = place + (place >= target[:, None])
    return probability, torch.cat([target_probability, 1 - target_probability], 1), logits.gather(1, others).softmax(1)
