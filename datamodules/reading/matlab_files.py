"""MATLAB files of integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from distill.errors import UserError

# SciPy reports damage by all of these
DAMAGE = (OSError, ValueError, KeyError, TypeError, NotImplementedError, MatReadError)


def read_integers(path: Path, *names: str) -> list[NDArray[np.int64]]:
    """Reads arrays of whole numbers, flattened to ``(N,)`` each.

    Args:
        path: A ``.mat`` file of a version below 7.3.
        *names: The arrays to read.

    Raises:
        ValueError: The file is damaged or lacks an array.
    """
    try:
        arrays = loadmat(path)
        numbers = [arrays[name].ravel() for name in names]
        integers = [values.astype(np.int64) for values in numbers]
        if not all(map(np.array_equal, numbers, integers)):
            raise UserError("it holds numbers that are not whole")
        return integers
    except DAMAGE as error:
        raise UserError(f"{path} should hold {' and '.join(names)} and cannot be read ({error})") from None
