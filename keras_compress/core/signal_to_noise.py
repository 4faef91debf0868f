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
    exact = reference.astype(np.float64).ravel()
    signal = float(np.dot(exact, exact))
    # In place: with large arrays, memory takes longer than arithmetic.
    exact -= np.broadcast_to(values, reference.shape).ravel()
    return decibels(signal, float(np.dot(exact, exact)))


def decibels(signal: float, noise: float) -> float:
    """Signal to noise from both sums of squares, `10 log10(signal / noise)`, at most 120.

    >>> decibels(100.0, 1.0)
    20.0
    """
    if not noise > 0:
        return MOST_DB if noise == 0 else -MOST_DB
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -MOST_DB, MOST_DB))
