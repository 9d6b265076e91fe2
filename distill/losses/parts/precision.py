"""Full precision inside a loss, whatever the precision around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function of tensors, which then computes in the dtypes of its tensors, also under autocast.

    Autocast rounds the factors of a matrix product to half precision, float32 tensors too. bfloat16 has 3 digits, so
    all similarities of features that lie far from 0 would be equal.

    Args:
        function: Takes at least one tensor, by position or by name; the first one tells the device.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return wrapped


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 where they are in half precision; float32 and float64 stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
