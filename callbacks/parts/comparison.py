"""Sums over an epoch from which the divergences of teacher and student come; nothing here knows a trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.metrics import CentralMomentDiscrepancy, NontargetJSD, TargetJSD
from distill.resume.epoch_state import metric_state, set_metric_state

WAITING_NUMEL = 2**19
"""Numbers of one model that wait to be compared at once: 2 MiB of float32. Of small batches it is the calls that
cost."""


class OutputDivergences:
    """The divergences of what student and teacher predict, by name; exact however the samples come in batches.

    ``cmd`` is the central moment discrepancy of the probabilities p, ``cmd_target`` that of ``[p_t, 1 - p_t]`` with
    the target class t, ``cmd_nontarget`` that of the softmax over the other classes; ``tcjsd`` and ``ncjsd`` are
    Jensen-Shannon divergences of the same two parts, in nats.

    Args:
        temperature: The logits of both models are divided by this.
        moments: K, the highest moment of the CMD.
        max_positions: About so many positions of dense logits are compared, on an even grid; all with ``None``.
        device: Where the sums are kept; it must have float64.
    """

    def __init__(self, temperature: float, moments: int, max_positions: int | None, device: torch.device) -> None:
        self.temperature = temperature
        self.max_positions = max_positions
        self.device = device
        self.cmds = {name: CentralMomentDiscrepancy(moments) for name in ("cmd", "cmd_target", "cmd_nontarget")}
        # no ignored position is ever given to them
        self.jsds = {"tcjsd": TargetJSD(ignore_index=-1), "ncjsd": NontargetJSD(ignore_index=-1)}
        self._metrics: dict[str, Metric] = {**self.cmds, **self.jsds}
        for metric in self._metrics.values():
            metric.to(device)
        self._waiting = _Waiting()

    def add(self, student: Tensor, teacher: Tensor, target: Tensor, ignore_index: int) -> None:
        """Adds a batch.

        Args:
            student: The student's logits, ``(N, C, *spatial)``, C at least 2.
            teacher: The teacher's, of the same shape.
            target: Class indices, ``(N, *spatial)``.
            ignore_index: Positions of this target do not count.
        """
        grid = _grid(target.shape[1:], self.max_positions)
        rows = [logits.detach()[grid].movedim(1, -1).flatten(0, -2) for logits in (student, teacher)]
        target = target[grid].flatten()
        self._waiting.add(*rows, target, target != ignore_index)
        if self._waiting.numel >= WAITING_NUMEL:
            self._update()

    def compute(self) -> dict[str, float]:
        """The divergences over all processes, NaN where no position counted; all processes must take part."""
        self._update()
        return {name: metric.compute().item() for name, metric in self._metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """What was added, on the CPU."""
        metrics = {name: metric_state(metric) for name, metric in self._metrics.items()}
        return {"metrics": metrics, "waiting": self._waiting.batches("cpu")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the place of what was added."""
        for name, seen in state["metrics"].items():
            set_metric_state(self._metrics[name], seen)
        self._waiting = _Waiting(state["waiting"])

    def _update(self) -> None:
        for student, teacher, target, counts in self._waiting.take(self.device):
            if not counts.all():
                student, teacher, target = student[counts], teacher[counts], target[counts]
            if self.temperature != 1:
                student, teacher = student / self.temperature, teacher / self.temperature
            target = target.long()
            pairs = zip(_distributions(student, target), _distributions(teacher, target), strict=True)
            for cmd, pair in zip(self.cmds.values(), pairs, strict=True):
                cmd.update(*pair)
            for jsd in self.jsds.values():
                jsd.update(student, teacher, target)


def float64_device(device: torch.device) -> torch.device:
    """Where sums in float64 are kept for values of a device: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class InputDivergence:
    """The central moment discrepancy, with un-normalised moments, of what student and teacher see.

    Inputs with equally many values are compared value by value, images of one size with different channels by the
    mean over their channels.

    Args:
        moments: K, the highest moment of the CMD.
        max_positions: About so many positions of an image or a sequence are compared, on an even grid; all with
            ``None``.
        device: Where the sums are kept; it must have float64.
    """

    def __init__(self, moments: int, max_positions: int | None, device: torch.device) -> None:
        self.max_positions = max_positions
        self.device = device
        self.comparable = True
        self._width = 0
        self._cmd = CentralMomentDiscrepancy(moments).to(device)
        self._waiting = _Waiting()

    def add(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> None:
        """Adds a batch; inputs that cannot be compared make ``comparable`` false.

        Args:
            student: The modalities that the student sees, ``(N, *)`` each.
            teacher: Those that the teacher sees.
        """
        equal = _values(student) == _values(teacher)
        if not equal and not _are_images_of_one_size(*student, *teacher):
            self.comparable = False
            return
        as_rows = _rows if equal else _rows_of_channel_means
        a, b = (as_rows([self._thinned(tensor) for tensor in inputs]) for inputs in (student, teacher))
        self._width = self._width or a.shape[1]
        # the grid takes different numbers of a large image and a vector, and batches may differ in size
        self.comparable = a.shape[1] == b.shape[1] == self._width
        if not self.comparable:
            return
        self._waiting.add(a, b)
        if self._waiting.numel >= WAITING_NUMEL:
            self._update()

    def compute(self) -> float:
        """The discrepancy over all processes; all processes must take part."""
        self._update()
        return float(self._cmd.compute())

    def state_dict(self) -> dict[str, Any]:
        """What was added, on the CPU."""
        return {
            "comparable": self.comparable,
            "width": self._width,
            "cmd": metric_state(self._cmd),
            "waiting": self._waiting.batches("cpu"),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the place of what was added."""
        self.comparable, self._width = state["comparable"], state["width"]
        set_metric_state(self._cmd, state["cmd"])
        self._waiting = _Waiting(state["waiting"])

    def _update(self) -> None:
        for pair in self._waiting.take(self.device):
            self._cmd.update(*pair)

    def _thinned(self, tensor: Tensor) -> Tensor:
        return tensor.detach()[_grid(tensor.shape[2:], self.max_positions)].float()


class _Waiting:
    """Rows of several batches that will be compared together."""

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
        """All that waits as one batch, if anything does."""
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
    """An index that leaves every s-th position along each of the last dims, about ``max_positions`` in all."""
    positions = math.prod(spatial)
    if max_positions is None or positions <= max_positions:
        return (...,)
    step = math.ceil((positions / max_positions) ** (1 / len(spatial)))
    return (..., *(slice(min(step // 2, size - 1), None, step) for size in spatial))


def _distributions(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits ``(M, C)``: p ``(M, C)``, ``[p_t, 1 - p_t]`` ``(M, 2)``, and p-hat of the others ``(M, C - 1)``.

    The others stay in their order, because moments are compared column by column.
    """
    probability = logits.softmax(1)
    of_target = probability.gather(1, target[:, None])
    place = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = place + (place >= target[:, None])
    return probability, torch.cat([of_target, 1 - of_target], 1), logits.gather(1, others).softmax(1)
