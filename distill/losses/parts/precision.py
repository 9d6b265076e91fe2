"""Full precision inside a loss, whatever surrounds it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function of tensors compute as their types say.

    Autocast rounds what goes into a product of matrices to half precision, float32 tensors too. Similarities of
    features that lie far from 0 are then all alike: bfloat16 has 3 digits.

    Args:
        function: Its first tensor, by position or by name, says on which kind of device it computes.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return wrapped
