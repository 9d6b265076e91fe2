"""Numbers of NumPy in files of weights, such as the best accuracy beside a state_dict."""

from __future__ import annotations

import re
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np


class NumberType:
    """Stands for ``numpy.dtype`` in a file; it takes the types of single numbers only."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iuf][1248]|c8|c16", code):
            raise UnpicklingError("not a type of numbers")
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise UnpicklingError("not the state of a type of numbers")
        self.order = state[1]


def number(kind: NumberType, raw: bytes) -> Any:
    """Stands for the function that builds a number of NumPy from its bytes."""
    dtype = np.dtype(kind.order + kind.code) if isinstance(kind, NumberType) else None
    if dtype is None or not isinstance(raw, bytes) or len(raw) != dtype.itemsize:
        raise UnpicklingError("not a number")
    return np.frombuffer(raw, dtype)[0]


def raw_bytes(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, by which old pickles write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnpicklingError("not bytes")
    return text.encode("latin1")


STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (NumberType, "numpy.dtype"),
    (number, "numpy.core.multiarray.scalar"),  # NumPy 1
    (number, "numpy._core.multiarray.scalar"),  # NumPy 2
    (raw_bytes, "_codecs.encode"),
]
"""What reads NumPy's numbers, for ``torch.serialization.safe_globals``."""
