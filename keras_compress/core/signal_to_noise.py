"""Signal to noise of two arrays, the figure in which models are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Figures of equal arrays, too.
MOST_DB = 120.0


def sqnr_db(reference: NDArray[Any], values: NDArray[Any]) -> float:
    """Signal to noise, `10 log10(sum r^2 / sum (r - v)^2)`, at most 120.

    >>> round(sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])), 6)
    20.0
    """
    reference = reference.astype(np.float64)
    signal, noise = np.square(reference).sum(), np.square(reference - values.astype(np.float64)).sum()
    if not noise > 0:
        return MOST_DB if noise == 0 else -MOST_DB
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -MOST_DB, MOST_DB))
