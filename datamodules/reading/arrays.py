"""Types of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8 | np.float32]
"""An image on the scale of bytes: ``uint8``, or ``float32`` from 0 to 255 if it has more than 8 bits."""
