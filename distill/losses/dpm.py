"""Depth probability maps: depth as probabilities of bins, depth from logits over bins, and their divergence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.checks import check_at_least, check_finite, check_option, check_positive
from distill.errors import UserError
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.reduction import Reduction, check_reduction, reduce_losses

BinValue = Literal["density", "integral"]
Normalization = Literal["softmax", "sum"]
Direction = Literal["teacher_student", "student_teacher"]

PART_NUMEL = 2**20
"""Logits in one part on a CPU: 4 MiB of float32, so that all results of a part stay in the cache."""

PARTS = 16
"""The approximate number of parts on other devices, where each part starts some fifty kernels."""


def bin_centers(bins: int, min_depth: float, max_depth: float) -> Tensor:
    """The centres of bins of equal width, in metres.

    Args:
        bins: The number of bins, at least 1.
        min_depth: Where the first bin begins.
        max_depth: Where the last one ends, above ``min_depth``.

    Returns:
        ``(bins,)``, float64, ascending.

    Raises:
        ValueError: There is no bin, or the range is empty.
    """
    _check_range(bins, min_depth, max_depth)
    edges = torch.linspace(min_depth, max_depth, bins + 1, dtype=torch.float64)
    return (edges[:-1] + edges[1:]) / 2


def decode_depth(logits: Tensor, *, min_depth: float = 1e-3, max_depth: float = 80.0) -> Tensor:
    r"""The depth of logits over bins, in metres: the mean of the bins' centres under the softmax of the logits.

    .. math::
        d = \sum_i \mathrm{center}(B_i) \, p(B_i)

    Args:
        logits: ``(N, bins, H, W)``, nearest bin first.
        min_depth: Where the first bin begins, in metres.
        max_depth: Where the last one ends.

    Returns:
        ``(N, 1, H, W)``, between the centres of the first and the last bin; float32, or float64 if the logits are
        float64.

    Raises:
        ValueError: The logits do not have four dimensions, or the range is empty.

    Source: Choi et al., TIE-KD, eq. 3.
    """
    _check_logits(logits)
    return expected_depth(logits, bin_centers(logits.shape[1], min_depth, max_depth))


def expected_depth(logits: Tensor, centers: Tensor) -> Tensor:
    """The mean of the bins' centres under the softmax of the logits.

    It is computed in float32 or float64, also under autocast: near 80 m, bfloat16 has steps of 0.5 m.

    Args:
        logits: ``(N, bins, H, W)``.
        centers: ``(bins,)``, or ``(N, bins)`` if each image has its own bins.

    Returns:
        ``(N, 1, H, W)`` in the unit of the centres.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probabilities = at_least_float32(logits).softmax(1)
        # one matrix product: no second tensor in the size of the probabilities, and none kept for the gradient
        weights = centers.to(probabilities).expand(*logits.shape[:2]).unsqueeze(1)
        depth: Tensor = torch.bmm(weights, probabilities.flatten(2)).view(-1, 1, *logits.shape[2:])
        return depth


def depth_probability_map(
    depth: Tensor,
    *,
    bins: int = 257,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    sigma: float = 0.8,
    bin_value: BinValue = "density",
    normalization: Normalization = "softmax",
    cutoff: float = 1e-16,
) -> Tensor:
    r"""The probabilities of bins of depth for each pixel, from a Gaussian around its depth.

    With d the depth, clamped to the range, a bin of width w and centre :math:`c_i` has the value

    .. math::
        v_i &= f(c_i, d) && \text{(\texttt{density})} \\
        v_i &= \int_{B_i} f(x, d) \, dx && \text{(\texttt{integral}, eq. 2)}

    with :math:`f(x, d) = e^{-(x - d)^2 / 2 \sigma^2} / (\sigma \sqrt{2 \pi})` (eq. 1), and, among the bins with
    :math:`v_i \ge` ``cutoff``, the probability :math:`e^{v_i} / \sum_j e^{v_j}` (``softmax``) or
    :math:`v_i / \sum_j v_j` (``sum``). All other bins have exactly 0. The bin that holds d always counts, with at least
    the cutoff: if bins are so wide that no centre is near enough, it has all the probability.

    The paper prints the integral and a softmax; the released code takes the softmax of the density, in 1/m. Both
    softmaxes are nearly flat over the bins that count. At sigma 0.8, away from the ends of the range, these are some 44
    of 257 bins, each with at most 0.036.

    Args:
        depth: In metres, ``(N, 1, H, W)``; 0 or less is no response. It is taken as a constant.
        bins: The number of bins of equal width; 257 in the paper.
        min_depth: Where the first bin begins, in metres.
        max_depth: Where the last one ends; 80 in the paper.
        sigma: The standard deviation of the Gaussian in metres; 0.8 in the paper (its Table 7 tries 0.1 to 1.2).
        bin_value: ``density`` or ``integral``.
        normalization: ``softmax`` or ``sum``.
        cutoff: Bins with a value below this have no probability; 1e-16 in the paper.

    Returns:
        ``(N, bins, H, W)``, with sum 1 over the bins, or all 0 without a response; float32, or float64 if the depth is
        float64.

    Raises:
        ValueError: The depth has another shape, sigma or the cutoff is not positive, the range is empty, or an option
            is unknown.

    Source: Choi et al., TIE-KD, 2024, Sec. 3.2, eqs. 1 and 2.
    """
    window = _Window(bins, min_depth, max_depth, sigma, bin_value, normalization, cutoff)
    if depth.ndim != 4 or depth.shape[1] != 1:
        raise UserError(f"depth must have shape (N, 1, H, W), got {tuple(depth.shape)}")
    depth = at_least_float32(depth.detach())
    index, probability = window.around(depth)
    map_ = depth.new_zeros(depth.shape[0], bins, *depth.shape[2:])
    return map_.scatter_(1, index, torch.where(_responds(depth), probability, 0))


def dpm_loss(
    student_logits: Tensor,
    teacher_depth: Tensor,
    *,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    sigma: float = 0.8,
    bin_value: BinValue = "density",
    normalization: Normalization = "softmax",
    direction: Direction = "teacher_student",
    cutoff: float = 1e-16,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The divergence between the student's depth probability map and that of the teacher's depth, in nats.

    .. math::
        \mathrm{KL}(P_T \,\|\, P_S) &= \sum_i P_T(i) \log (P_T(i) / P_S(i))
            && \text{(\texttt{teacher\_student})} \\
        \mathrm{KL}(P_S \,\|\, P_T) &= \sum_i P_S(i) \log (P_S(i) / \max(P_T(i), \mathrm{cutoff}))
            && \text{(\texttt{student\_teacher})}

    with :math:`P_T` the :func:`depth_probability_map` of the teacher's depth and :math:`P_S` the softmax of the logits.
    The released code takes the first. Eq. 5 prints the second without the maximum, which is infinite, because
    :math:`P_T` is 0 in most bins. With the cutoff as the smallest probability, the student's mass outside the teacher's
    bins costs about 37 nats, and the gradient moves it into them; renormalising inside those bins would not.

    The teacher's map is never built. It is 0 except in a few bins around the depth, and only these bins of the student
    are looked up. Beside its inputs and the gradient the loss needs two numbers for each pixel and the memory for one
    part of the pixels. It has no second derivative.

    Args:
        student_logits: ``(N, bins, H, W)``, nearest bin first.
        teacher_depth: In metres, ``(N, 1, H, W)``; positions with 0 or less, no response, do not count. No gradient
            flows to it.
        min_depth: Where the first bin begins, in metres.
        max_depth: Where the last one ends.
        sigma: The standard deviation of the teacher's Gaussian, in metres.
        bin_value: As in :func:`depth_probability_map`.
        normalization: As in :func:`depth_probability_map`.
        direction: ``teacher_student`` or ``student_teacher``.
        cutoff: As in :func:`depth_probability_map`.
        reduction: ``"none"``, ``"mean"`` over the positions that count (0 if none does), or ``"sum"``.

    Returns:
        ``(N, H, W)`` for ``"none"``, 0 without a response, else a scalar; float32, or float64 if the logits are
        float64.

    Raises:
        ValueError: As :func:`depth_probability_map`, the shapes do not belong together, or the direction or reduction
            is unknown.

    Source: Choi et al., TIE-KD, 2024, eq. 5.
    """
    _check_logits(student_logits)
    check_reduction(reduction)
    check_option("direction", direction, get_args(Direction))
    samples, bins, *size = student_logits.shape
    if teacher_depth.shape != (samples, 1, *size):
        raise UserError(
            f"teacher_depth must have shape {(samples, 1, *size)} for logits of shape {tuple(student_logits.shape)}, "
            f"got {tuple(teacher_depth.shape)}"
        )
    window = _Window(bins, min_depth, max_depth, sigma, bin_value, normalization, cutoff)
    depth = teacher_depth.detach().to(torch.promote_types(student_logits.dtype, torch.float32))
    losses = _Divergence.apply(student_logits, depth, window, direction).squeeze(1)
    counted = _responds(depth).squeeze(1)
    return reduce_losses(torch.where(counted, losses, 0), reduction, counted)


@dataclass(frozen=True)
class _Window:
    """The bins around a depth that have a probability. Their number is the same for all depths: they form a tensor."""

    bins: int
    min_depth: float
    max_depth: float
    sigma: float
    bin_value: BinValue
    normalization: Normalization
    cutoff: float

    def __post_init__(self) -> None:
        _check_range(self.bins, self.min_depth, self.max_depth)
        check_positive(sigma=self.sigma, cutoff=self.cutoff)
        check_option("bin_value", self.bin_value, get_args(BinValue))
        check_option("normalization", self.normalization, get_args(Normalization))

    @property
    def width(self) -> float:
        return (self.max_depth - self.min_depth) / self.bins

    @property
    def reach(self) -> int:
        """The number of bins on each side of the one that holds the depth whose value can reach the cutoff."""
        if self.bin_value == "density":
            peak, slack = 1 / (self.sigma * math.sqrt(2 * math.pi)), 0.0
        else:
            # the Gaussian's tail beyond r is less than exp(-r^2 / 2 sigma^2) / 2
            peak, slack = 0.5, self.width / 2
        distance = self.sigma * math.sqrt(max(0.0, 2 * (math.log(peak) - math.log(self.cutoff)))) + slack
        return int(min(self.bins, distance / self.width + 0.5))

    def around(self, depth: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers of the bins around depths ``(N, 1, H, W)`` and their probabilities, both ``(N, K, H, W)``."""
        size = min(self.bins, 2 * self.reach + 1)
        position = (depth.clamp(self.min_depth, self.max_depth) - self.min_depth) / self.width
        # NaN is in no bin; its values are NaN in any
        holding = position.nan_to_num(nan=0).long().clamp(max=self.bins - 1)
        first = (holding - self.reach).clamp(0, self.bins - size)
        index = first + torch.arange(size, device=depth.device).view(-1, 1, 1)
        value = self._value(((index - position) + 0.5).abs() * self.width)
        value = torch.where(index == holding, value.clamp(min=self.cutoff), value)
        outside = value < self.cutoff
        if self.normalization == "softmax":
            return index, value.masked_fill(outside, -torch.inf).softmax(1)
        value = value.masked_fill(outside, 0)
        return index, value / value.sum(1, keepdim=True)

    def _value(self, distance: Tensor) -> Tensor:
        """The values of bins whose centres have this distance from the depth, in metres."""
        if self.bin_value == "density":
            return (-0.5 * (distance / self.sigma).square()).exp() / (self.sigma * math.sqrt(2 * math.pi))
        # a difference of small upper tails, which loses fewer digits than one of numbers near 1
        scale = self.sigma * math.sqrt(2)
        nearer, farther = (distance - self.width / 2) / scale, (distance + self.width / 2) / scale
        return (nearer.erfc() - farther.erfc()) / 2


class _Divergence(torch.autograd.Function):
    """The divergence at each position of logits ``(N, bins, H, W)``, ``(N, 1, H, W)``, computed part by part.

    It saves the logits, the depth and the logits' log-sum-exp; the backward pass computes the rest again.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, depth: Tensor, window: _Window, direction: Direction) -> Tensor:
        losses, log_sum = torch.empty_like(depth), torch.empty_like(depth)
        for part in _parts(logits):
            scores = at_least_float32(logits[part])
            log_sum[part] = scores.logsumexp(1, keepdim=True)
            index, teacher = window.around(depth[part])
            if direction == "teacher_student":
                log_student = scores.gather(1, index) - log_sum[part]
                # a bin may be masked by a logit of -inf: 0 times that is 0 where the teacher's probability is 0
                cross = (teacher * log_student).masked_fill_(teacher == 0, 0)
                losses[part] = (teacher.xlogy(teacher) - cross).sum(1, keepdim=True)
            else:
                log_student = _finite(scores - log_sum[part])
                log_ratio = _log_ratio(log_student, index, teacher, window.cutoff)
                losses[part] = (log_student.exp() * log_ratio).sum(1, keepdim=True)
        ctx.save_for_backward(logits, depth, log_sum, losses)
        ctx.window, ctx.direction = window, direction
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        logits, depth, log_sum, losses = ctx.saved_tensors
        in_logits = torch.empty_like(logits)
        for part in _parts(logits):
            log_student = at_least_float32(logits[part]) - log_sum[part]
            index, teacher = ctx.window.around(depth[part])
            if ctx.direction == "teacher_student":
                of_part = log_student.exp_().scatter_add_(1, index, -teacher)
            else:
                log_student = _finite(log_student)
                log_ratio = _log_ratio(log_student, index, teacher, ctx.window.cutoff)
                of_part = log_ratio.sub_(losses[part]).mul_(log_student.exp_())
            # a product with a gradient of 0 would keep NaN and infinity where there is no response
            in_logits[part] = of_part.mul_(gradient[part]).masked_fill_(~_responds(depth[part]), 0)
        return in_logits, None, None, None


def _responds(depth: Tensor) -> Tensor:
    """Where there is a response: everywhere but at depths of 0 or less. NaN counts, so that it is not hidden."""
    return ~(depth <= 0)


def _finite(log_student: Tensor) -> Tensor:
    """Log-probabilities whose probability of 0 gives 0 in a product: a large number for -inf, in place."""
    return log_student.clamp_(min=-1e30)


def _log_ratio(log_student: Tensor, index: Tensor, teacher: Tensor, cutoff: float) -> Tensor:
    """log(P_S / max(P_T, cutoff)) in all bins, from the teacher's probabilities in a few bins."""
    floor = math.log(cutoff)
    return (log_student - floor).scatter_add_(1, index, floor - teacher.clamp(min=cutoff).log())


def _parts(logits: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of ``(N, *, H, W)`` tensors: several samples, or some rows of one sample."""
    samples, bins, height, width = logits.shape
    numel = PART_NUMEL if logits.device.type == "cpu" else max(PART_NUMEL, logits.numel() // PARTS)
    rows = max(1, numel // max(1, bins * width))
    together = max(1, rows // max(1, height))
    for sample in range(0, samples, together):
        for row in range(0, height, rows):
            yield slice(sample, sample + together), slice(None), slice(row, row + rows)


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 4:
        raise UserError(f"logits over bins must have shape (N, bins, H, W), got {tuple(logits.shape)}")


def _check_range(bins: int, min_depth: float, max_depth: float) -> None:
    check_at_least(1, bins=bins)
    check_finite(min_depth=min_depth, max_depth=max_depth)
    if not min_depth < max_depth:
        raise UserError(f"min_depth must be below max_depth, got {min_depth} and {max_depth}")
