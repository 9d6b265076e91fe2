"""Depth probability maps as the paper and its code write them: over all bins of every pixel at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import Tensor


def plain_map(
    depth: Tensor,
    bins: int = 257,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    sigma: float = 0.8,
    bin_value: str = "density",
    normalization: str = "softmax",
    cutoff: float = 1e-16,
) -> Tensor:
    depth = depth.clamp(min_depth, max_depth)
    edges = torch.linspace(min_depth, max_depth, bins + 1, dtype=depth.dtype, device=depth.device).view(-1, 1, 1)
    centers = (edges[1:] + edges[:-1]) / 2
    if bin_value == "density":
        values = torch.exp(-0.5 * ((centers - depth) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    else:
        lower, upper = ((edge - depth).numpy() / sigma for edge in (edges[:-1], edges[1:]))
        values = torch.from_numpy(abs(norm.cdf(-abs(lower)) - norm.cdf(-abs(upper))))
        around = torch.from_numpy(norm.cdf(upper) - norm.cdf(lower))
        values = torch.where(torch.from_numpy((lower < 0) & (upper > 0)), around, values)
    counted = values >= cutoff
    if not counted.any(1).all():  # the nearest bin where none is near enough
        nearest = F.one_hot((centers - depth).abs().argmin(1), bins).movedim(-1, 1).bool()
        counted |= nearest & ~counted.any(1, keepdim=True)
        values = values.masked_fill(nearest & (values < cutoff), cutoff)
    if normalization == "softmax":
        return values.masked_fill(~counted, -torch.inf).softmax(1)
    values = values * counted
    return values / values.sum(1, keepdim=True)


def plain_divergence(
    logits: Tensor, depth: Tensor, direction: str = "teacher_student", cutoff: float = 1e-16, **options: object
) -> Tensor:
    """``(N, H, W)``."""
    teacher = plain_map(depth, logits.shape[1], cutoff=cutoff, **options)  # type: ignore[arg-type]
    log_student = F.log_softmax(logits, 1)
    if direction == "teacher_student":
        return F.kl_div(log_student, teacher, reduction="none").sum(1)
    return (log_student.exp() * (log_student - teacher.clamp(min=cutoff).log())).sum(1)
