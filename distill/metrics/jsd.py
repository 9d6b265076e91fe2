"""Jensen-Shannon divergences between student and teacher, on the target class and among the non-target classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.losses.parts.logits import check_logits, check_two_classes, split_target, where_counted
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.recompute import in_chunks


def target_jsd(student: Tensor, teacher: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    r"""The divergence of the target class's probability between student and teacher (TCJSD), in nats, at each position.

    .. math::
        \tfrac12 p_t^T \log(p_t^T / m) + \tfrac12 p_t^S \log(p_t^S / m), \quad m = \tfrac12 (p_t^T + p_t^S)

    This is NTDH eq. 5 as printed. It has the term of the target class, but not that of the other entry of the binary
    distribution, 1 - p_t, so it is not a whole Jensen-Shannon divergence. By the log-sum inequality it is 0 or more,
    and 0 only if the two probabilities are equal. Its maximum is ln(2) / 2, for probabilities of 0 and 1.

    Args:
        student: The student's logits, ``(N, C, *)``, C at least 2.
        teacher: The teacher's logits, of the same shape.
        target: Class indices t, ``(N, *)`` in 0 to C - 1, or ``ignore_index``.
        ignore_index: The divergence is 0 where the target is this.

    Returns:
        ``(N, *)``; float32, or float64 if the logits are float64.

    Raises:
        ValueError: There is one class only, or the shapes do not belong together.

    Source: Chen et al., the non-target divergence hypothesis (NTDH), eq. 5.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> target_jsd(student, teacher, torch.tensor([0]))
        tensor([0.0109])
    """

    def divergence(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        student_binary, _ = split_target(at_least_float32(student), target)
        teacher_binary, _ = split_target(at_least_float32(teacher), target)
        return _jsd_terms(student_binary[:, 0], teacher_binary[:, 0])

    return _at_counted(divergence, student, teacher, target, ignore_index)


def nontarget_jsd(student: Tensor, teacher: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    r"""The Jensen-Shannon divergence among the non-target classes (NCJSD), in nats, at each position.

    .. math::
        \sum_{i \ne t} \tfrac12 \hat p_i^T \log(\hat p_i^T / m_i) + \tfrac12 \hat p_i^S \log(\hat p_i^S / m_i),
        \quad m_i = \tfrac12 (\hat p_i^T + \hat p_i^S)

    with p-hat the softmax over the non-target classes only. It lies in [0, ln(2)], and is exactly 0 with two classes.

    Args:
        student: The student's logits, ``(N, C, *)``, C at least 2.
        teacher: The teacher's logits, of the same shape.
        target: Class indices t, ``(N, *)`` in 0 to C - 1, or ``ignore_index``.
        ignore_index: The divergence is 0 where the target is this.

    Returns:
        ``(N, *)``; float32, or float64 if the logits are float64.

    Raises:
        ValueError: There is one class only, or the shapes do not belong together.

    Source: Chen et al., the non-target divergence hypothesis (NTDH), eq. 6.

    Example:
        >>> student, teacher = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[5.0, 1.0, 0.0]])
        >>> nontarget_jsd(student, teacher, torch.tensor([0]))
        tensor([0.0285])
    """

    def divergence(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        _, student_others = split_target(at_least_float32(student), target)
        _, teacher_others = split_target(at_least_float32(teacher), target)
        return _jsd_terms(student_others, teacher_others).sum(1)

    return _at_counted(divergence, student, teacher, target, ignore_index)


class _MeanJSD(Metric):
    """The mean over all positions that count, over batches and processes, summed in float64."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The mean over all positions that count, a float64 scalar in nats."""
        return self.total / self.count

    def _add(self, divergences: Tensor, target: Tensor) -> None:
        self.total = self.total + divergences.sum(dtype=torch.float64)
        self.count = self.count + (target != self.ignore_index).sum()


class TargetJSD(_MeanJSD):
    """The mean of :func:`target_jsd` over all samples or pixels that count, in nats (NTDH eq. 5, TCJSD).

    It keeps sums in float64 and counts, so it is the same for any batches and processes. It is NaN without positions.
    It needs a device that has float64.

    Args:
        ignore_index: Positions with this target do not count.
        kwargs: Further arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = TargetJSD()
        >>> metric.update(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 255]))
        >>> metric.compute()
        tensor(0.0109, dtype=torch.float64)
    """

    def update(self, student: Tensor, teacher: Tensor, target: Tensor) -> None:
        """Adds a batch of logits ``(N, C, *)`` and targets ``(N, *)``; raises as :func:`target_jsd`."""
        self._add(target_jsd(student, teacher, target, ignore_index=self.ignore_index), target)


class NontargetJSD(_MeanJSD):
    """The mean of :func:`nontarget_jsd` over all samples or pixels that count, in nats (NTDH eq. 6, NCJSD).

    It keeps sums in float64 and counts, so it is the same for any batches and processes. It is NaN without positions.
    It needs a device that has float64.

    Args:
        ignore_index: Positions with this target do not count.
        kwargs: Further arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = NontargetJSD()
        >>> metric.update(torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[5.0, 1.0, 0.0]]), torch.tensor([0]))
        >>> metric.compute()
        tensor(0.0285, dtype=torch.float64)
    """

    def update(self, student: Tensor, teacher: Tensor, target: Tensor) -> None:
        """Adds a batch of logits ``(N, C, *)`` and targets ``(N, *)``; raises as :func:`nontarget_jsd`."""
        self._add(nontarget_jsd(student, teacher, target, ignore_index=self.ignore_index), target)


def _at_counted(
    divergence: Callable[[Tensor, Tensor, Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    ignore_index: int,
) -> Tensor:
    check_logits(student, teacher, target)
    check_two_classes(student)
    counted = target != ignore_index

    def guarded(student: Tensor, teacher: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        return divergence(where_counted(student, counted), where_counted(teacher, counted), target)

    return torch.where(counted, in_chunks(guarded, student, teacher, torch.where(counted, target, 0), counted), 0)


def _jsd_terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The terms of the Jensen-Shannon divergence, from log-probabilities; finite if p or q is 0."""
    log_p, log_q = (x.clamp(min=torch.finfo(x.dtype).min / 2) for x in (log_p, log_q))  # -inf of a masked class
    high = torch.maximum(log_p, log_q)
    # log((p + q) / 2) from the higher of the two: it does not overflow, and is exactly log p if p = q
    log_mean = high + torch.log1p(torch.expm1(torch.minimum(log_p, log_q) - high) / 2)
    return (log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)) / 2
